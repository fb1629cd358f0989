/** `tokaido status --tree`: a tree drawn from what nodes reported. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { renderTree } from '../../src/cli/status.js';
import type { NodeStatus, StatusTreeNode } from '../../src/node/status/status.js';

function below(name: string, upstreamId: string, more: Partial<StatusTreeNode> = {}): StatusTreeNode {
  const facts = {
    role: 'edge',
    position: '1:5',
    lagMs: 20,
    lagChanges: 0,
    lagBytes: 0,
    equal: 'equal',
    ageMs: 900,
  } as const;
  return { instanceId: name, upstreamId, name, ...facts, ...more };
}

describe('the tree of a node', () => {
  it('is drawn with lags, whoever reported first', () => {
    const tree = [
      below('edge-2', 'relay-1', { lagMs: null, equal: 'unknown', lagChanges: 12, lagBytes: 3400 }),
      below('relay-1', 'root', { role: 'relay' }),
      below('edge-1', 'relay-1', { equal: 'differs' }),
      below('edge-3', 'root'),
      below('edge-4', 'somebody'),
    ];
    const root = { name: 'root', role: 'root', instanceId: 'root', lagMs: 0, tree } as unknown as NodeStatus;
    assert.equal(
      renderTree(root),
      [
        'NODE        ROLE   LAG      CHANGES  BYTES  EQUAL    REPORTED',
        'root        root   0 ms',
        '├ relay-1   relay  20 ms    0        0      yes      900 ms ago',
        '│ ├ edge-2  edge   unknown  12       3400            900 ms ago',
        '│ └ edge-1  edge   20 ms    0        0      DIFFERS  900 ms ago',
        '└ edge-3    edge   20 ms    0        0      yes      900 ms ago',
        'elsewhere: edge-4',
      ].join('\n'),
    );
  });
});
