/** A new CA under a running cluster as an operator does it: two commands at the root, and nobody copies a file. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createCa, createIntermediate, openCa } from '../../src/pki/ca/ca.js';
import { revoke } from '../../src/pki/ca/records.js';
import { rotateCa, statementsPath } from '../../src/pki/ca/rotation.js';
import { signStatement } from '../../src/pki/trust-statement.js';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { openssl } from '../support/openssl.js';

const SOON_MS = 10_000;
/** Nodes look at what they believe ten times a second. */
const SETTLED_MS = 700;

describe('tokaido ca rotate --publish', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let relay: ClusterNode;
  let edge: ClusterNode;
  let nodes: readonly ClusterNode[];
  const ca = (...names: string[]): string => join(cluster.folder, 'ca', ...names);
  const fileOf = ({ folder }: ClusterNode): string => readFileSync(join(folder, 'ca.crt'), 'utf8');

  async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    const start = performance.now();
    while (!(await holds())) {
      const logs = nodes.map((node) => cluster.log(node).slice(-1500)).join('\n---\n');
      if (performance.now() - start > SOON_MS) throw new Error(`not within ${SOON_MS} ms: ${what}\n${logs}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  const follows = async (node: ClusterNode): Promise<boolean> => {
    return (await cluster.status(node)).upstream?.state === 'following';
  };
  async function renew({ folder }: ClusterNode): Promise<void> {
    const signer = ['--signer', `openssl dgst -sha256 -sign ${join(cluster.folder, 'new.key')}`];
    const renewed = await tokaido(['ca', 'renew', '--ca', ca(), '--node', folder, ...signer]);
    assert.equal(renewed.code, 0, renewed.err);
  }
  const post = async (body: string): Promise<{ status: number; text: string }> => {
    const response = await fetch(`http://127.0.0.1:${root.adminPort}/trust`, { method: 'POST', body });
    return { status: response.status, text: await response.text() };
  };

  before(async () => {
    cluster = await Cluster.create();
    const config = { replication: { reconnectMinMs: 50, reconnectMaxMs: 200 } };
    root = await cluster.add({ name: 'root', role: 'root', config });
    relay = await cluster.add({ name: 'relay', role: 'relay', upstreams: [root], config });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [relay], config });
    nodes = [root, relay, edge];
    for (const node of nodes) cluster.start(node);
    for (const node of nodes) await cluster.ready(node);
  });
  after(async () => await cluster.close());

  it('takes statements from nobody but a CA that the cluster believes', async () => {
    const foreign = join(cluster.folder, 'foreign');
    await createCa({ folder: foreign, name: 'foreign', days: 10, nowMs: Date.now() });
    await rotateCa({ folder: foreign, name: 'foreign', days: 10, nowMs: Date.now() });
    const online = join(cluster.folder, 'online');
    await createIntermediate({ folder: online, name: 'online', days: 10, nowMs: Date.now() }, openCa(ca()));
    const { clusterId, signer } = openCa(online);
    revoke(ca(), { name: 'online' }, Date.now());
    const authorities = readFileSync(ca('ca.crt'), 'utf8');
    const byIntermediate = { statements: [await signStatement({ number: 1, clusterId, authorities }, signer)] };
    for (const body of [readFileSync(statementsPath(foreign), 'utf8'), JSON.stringify(byIntermediate)]) {
      const { status, text } = await post(body);
      assert.equal(status, 403, text);
      assert.match(text, /not signed by a CA that this node believes/);
    }
    assert.equal((await post('no statement')).status, 400);
  });

  it('tells every node of a new CA whose key a command keeps, through relays, and later that the old one is gone', async () => {
    const old = fileOf(edge);
    openssl(['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', 'new.key'], cluster.folder);
    openssl(['ec', '-in', 'new.key', '-pubout', '-out', 'new.pub'], cluster.folder);
    const key = join(cluster.folder, 'new.key');
    const signer = `openssl dgst -sha256 -sign ${key}`;
    const publish = ['--publish', `127.0.0.1:${root.adminPort}`, '--json'];
    const keys = ['--new-signer', signer, '--public-key', join(cluster.folder, 'new.pub')];
    const begun = await tokaido(['ca', 'rotate', '--ca', ca(), ...keys, ...publish]);
    assert.equal(begun.code, 0, begun.err);
    assert.deepEqual(json(begun).published, { published: 1, known: 0 });
    for (const node of nodes) {
      await until(`${node.name} believes both`, () => {
        return fileOf(node) !== old && fileOf(node) === readFileSync(ca('trust.crt'), 'utf8');
      });
    }
    const lost = 'no link to the upstream';
    const losses = (): number[] => nodes.map((node) => cluster.log(node).split(lost).length);
    const before = losses();
    for (const node of [edge, root, relay]) await renew(node);
    await until('the links have moved', async () => {
      const [toRoot, toRelay] = [await cluster.status(root), await cluster.status(relay)];
      return [toRoot, toRelay].every(
        ({ followers }) => followers.length === 1 && (followers[0]?.connectedMs ?? 0) > 1000,
      );
    });
    const retired = await tokaido(['ca', 'rotate', '--ca', ca(), '--retire', '--signer', signer, ...publish]);
    assert.equal(retired.code, 0, retired.err);
    assert.deepEqual(json(retired).published, { published: 1, known: 1 });
    const alone = readFileSync(ca('trust.crt'), 'utf8');
    for (const node of nodes) await until(`${node.name} believes the new one alone`, () => fileOf(node) === alone);
    for (const node of [relay, edge]) await until(`${node.name} follows`, async () => await follows(node));
    assert.deepEqual(losses(), before);
  });

  it('is remembered by a node that starts again, and puts right a file that is older', async () => {
    await cluster.stop(edge);
    // As from a back-up: both CAs.
    const { statements } = JSON.parse(readFileSync(statementsPath(ca()), 'utf8')) as {
      statements: { statement: string }[];
    };
    const [first] = statements.map(({ statement }) => (JSON.parse(statement) as { authorities: string }).authorities);
    writeFileSync(join(edge.folder, 'ca.crt'), first as string);
    cluster.start(edge);
    await cluster.ready(edge);
    await until('it believes the new one alone', () => fileOf(edge) === readFileSync(ca('trust.crt'), 'utf8'));
    await until('it follows', async () => await follows(edge));
  });

  it('is known already the second time, and a number says one thing', async () => {
    const text = readFileSync(statementsPath(ca()), 'utf8');
    assert.deepEqual(JSON.parse((await post(text)).text), { published: 0, known: 2 });
    const [first] = (JSON.parse(text) as { statements: object[] }).statements;
    const { clusterId } = openCa(ca(), { signCommand: 'false' });
    const authorities = readFileSync(ca('ca.crt'), 'utf8');
    const { signer } = openCa(ca(), {
      signCommand: `openssl dgst -sha256 -sign ${join(cluster.folder, 'new.key')}`,
    });
    const other = await signStatement({ number: 2, clusterId, authorities: `${authorities}${authorities}` }, signer);
    const { status, text: answer } = await post(JSON.stringify({ statements: [first, other] }));
    assert.equal(status, 403, answer);
    assert.match(answer, /says something else here/);
  });
});

describe('rotations that are published, and others that go by hand between them', () => {
  it('come to every node, and none takes back what another one did', async () => {
    const cluster = await Cluster.create();
    try {
      const ca = join(cluster.folder, 'ca');
      const root = await cluster.add({ name: 'root', role: 'root' });
      const edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
      const nodes = [root, edge];
      for (const node of nodes) {
        cluster.start(node);
        await cluster.ready(node);
      }
      const run = async (...more: string[]): Promise<void> => {
        const ended = await tokaido(['ca', ...more, '--ca', ca]);
        assert.equal(ended.code, 0, ended.err);
      };
      const trust = (): string => readFileSync(join(ca, 'trust.crt'), 'utf8');
      const file = ({ folder }: ClusterNode): string => readFileSync(join(folder, 'ca.crt'), 'utf8');
      /** As soon as it has had time to be something else. */
      const believeWhatCounts = async (): Promise<void> => {
        await new Promise((resolve) => setTimeout(resolve, SETTLED_MS));
        const start = performance.now();
        while (nodes.some((node) => file(node) !== trust())) {
          assert.ok(performance.now() - start < SOON_MS, nodes.map((node) => cluster.log(node).slice(-1000)).join());
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      };
      for (const isPublished of [false, true, false, true]) {
        const publish = isPublished ? ['--publish', `127.0.0.1:${root.adminPort}`] : [];
        await run('rotate', ...publish);
        for (const { folder } of nodes) await run('renew', '--node', folder);
        await believeWhatCounts();
        await run('rotate', '--retire', ...publish);
        if (!isPublished) {
          for (const node of nodes) {
            writeFileSync(join(node.folder, 'ca.crt'), trust());
            node.process?.kill('SIGHUP');
          }
        }
        await believeWhatCounts();
      }
    } finally {
      await cluster.close();
    }
  });
});
