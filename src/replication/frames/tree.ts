/**
 * What is known of all nodes below this one: each follower reports itself and what its own followers have reported, so
 * the root knows the whole tree. A report is small, comes every few seconds, and is as old as the way it came is long.
 */
import type { ByteReader, ByteWriter } from '../../base/bytes.js';
import { decodePosition, encodePosition } from '../../log/position.js';
import { id, list, readId } from './frame-parts.js';
import type { TreeNode } from './frame-types.js';

export type { TreeNode } from './frame-types.js';

/** Most nodes in one report; a larger tree is reported in part. */
export const MAX_TREE_NODES = 2048;

const EQUAL = ['unknown', 'equal', 'differs'] as const;

export function encodeTree(writer: ByteWriter, nodes: readonly TreeNode[]): void {
  writer.varint(nodes.length);
  for (const node of nodes) {
    id(writer, node.instanceId);
    id(writer, node.upstreamId);
    writer.text(node.name).text(node.role);
    encodePosition(writer, node.position);
    writer.u8(EQUAL.indexOf(node.equal)).varint(Math.round(node.ageMs));
    writer.varint(node.lagMs === undefined ? 0 : 1 + Math.max(0, Math.round(node.lagMs)));
  }
}

export function readTree(reader: ByteReader): TreeNode[] {
  return list(reader, MAX_TREE_NODES, () => {
    const [instanceId, upstreamId] = [readId(reader), readId(reader)];
    const [name, role] = [reader.text(), reader.text()];
    const position = decodePosition(reader);
    const equal = EQUAL[reader.u8()] ?? 'unknown';
    const [ageMs, lag] = [reader.varint(), reader.varint()];
    return { instanceId, upstreamId, name, role, position, lagMs: lag === 0 ? undefined : lag - 1, equal, ageMs };
  });
}

/** One entry for each node, the newest; a node that changed its upstream may have been reported twice. */
export function joinTrees(trees: Iterable<readonly TreeNode[]>): TreeNode[] {
  const nodes = new Map<string, TreeNode>();
  for (const tree of trees) {
    for (const node of tree) {
      const known = nodes.get(node.instanceId);
      if (known === undefined ? nodes.size < MAX_TREE_NODES : node.ageMs < known.ageMs)
        nodes.set(node.instanceId, node);
    }
  }
  return [...nodes.values()];
}
