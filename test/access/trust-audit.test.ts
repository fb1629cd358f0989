/** A change of which CAs count leaves its trace in the audit log of every node: published, by hand, and of a listener. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { rotateCa, statementsPath } from '../../src/pki/ca/rotation.js';
import { tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { eventually } from '../support/local-runtime.js';
import { openssl } from '../support/openssl.js';
import { freePort } from '../support/postgres.js';

const SOON_MS = 15_000;

describe('the audit log, when other CAs count', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  let listener: string;
  let old: string;
  const at = (...parts: string[]): string => join(cluster.folder, ...parts);
  const events = ({ folder }: ClusterNode, event: string): Record<string, unknown>[] => {
    const lines = readFileSync(join(folder, 'audit.log'), 'utf8').split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>).filter((one) => one.event === event);
  };
  const fingerprint = (file: string): string => new X509Certificate(readFileSync(file)).fingerprint256;
  /** Changes of whom `by` believes, as fingerprints. */
  const changes = (node: ClusterNode, by = 'node'): { added: string[]; removed: string[] }[] => {
    const tail = (cas: unknown): string[] => (cas as string[]).map((ca) => ca.split(' ').at(-1) as string);
    const own = events(node, 'trust.changed').filter((one) => one.by === by);
    return own.map(({ added, removed }) => ({ added: tail(added), removed: tail(removed) }));
  };
  const ca = async (...flags: string[]): Promise<void> => {
    const { code, err } = await tokaido(['ca', ...flags]);
    assert.equal(code, 0, err);
  };

  before(async () => {
    cluster = await Cluster.create();
    old = fingerprint(at('ca', 'ca.crt'));
    await createCa({ folder: at('apps'), name: 'apps', days: 10, nowMs: Date.now() });
    const [clientPort, secure] = [await freePort(), await freePort()];
    const issued = { ca: at('apps'), out: at('server'), role: 'client', name: 'server', days: 1 } as const;
    await issueCertificate({ ...issued, dns: [], ip: [], nowMs: Date.now() });
    writeFileSync(at('apps.crt'), readFileSync(at('apps', 'ca.crt')));
    const tls = { certificate: '../server/node.crt', key: '../server/node.key', clientCa: '../apps.crt' };
    listener = `clients 127.0.0.1:${secure}`;
    const audit = { file: 'audit.log' };
    root = await cluster.add({ name: 'root', role: 'root', config: { audit } });
    edge = await cluster.add({
      name: 'edge',
      role: 'edge',
      upstreams: [root],
      config: { audit, listen: { clients: [{ port: clientPort }, { port: secure, tls }], admin: { port: 0 } } },
    });
    for (const node of [root, edge]) cluster.start(node);
    await cluster.ready(root);
    await eventually('the edge follows', () => events(root, 'follower.connected').length > 0, SOON_MS);
  });
  after(async () => await cluster.close());

  it('says whom the node believes at its start', () => {
    const [started] = events(edge, 'node.started');
    assert.deepEqual(started?.trusts, [`O=Tokaido, CN=test ${old}`]);
    assert.deepEqual(changes(edge), []);
  });

  it('names the new CA on every node that a rotation reaches, and later the one that is gone', async () => {
    const publish = ['--publish', `127.0.0.1:${root.adminPort}`];
    await ca('rotate', '--ca', at('ca'), ...publish);
    const fresh = fingerprint(at('ca', 'ca.crt'));
    for (const node of [root, edge]) await eventually('it is written down', () => changes(node).length === 1, SOON_MS);
    for (const { folder } of [edge, root]) await ca('renew', '--ca', at('ca'), '--node', folder);
    await eventually('the root has its new one', () => events(root, 'certificate.changed').length === 1, SOON_MS);
    await eventually('the edge has its new one', () => events(edge, 'certificate.changed').length === 1, SOON_MS);
    await ca('rotate', '--ca', at('ca'), '--retire', ...publish);
    for (const node of [root, edge]) await eventually('it is written down', () => changes(node).length === 2, SOON_MS);
    const steps = [
      { added: [fresh], removed: [] },
      { added: [], removed: [old] },
    ];
    for (const node of [root, edge]) assert.deepEqual(changes(node), steps);
    const published = events(root, 'trust.published').map(({ statement, authorities }) => [statement, authorities]);
    assert.deepEqual(published, [
      [1, [fresh, old]],
      [2, [fresh]],
    ]);
    assert.deepEqual(events(edge, 'trust.published'), []);
  });

  it('says when somebody brought a statement that does not count', async () => {
    await createCa({ folder: at('foreign'), name: 'foreign', days: 10, nowMs: Date.now() });
    await rotateCa({ folder: at('foreign'), name: 'foreign', days: 10, nowMs: Date.now() });
    const body = readFileSync(statementsPath(at('foreign')), 'utf8');
    const reply = await fetch(`http://127.0.0.1:${root.adminPort}/trust`, { method: 'POST', body });
    assert.equal(reply.status, 403);
    const [refused] = events(root, 'trust.refused');
    assert.match(String(refused?.reason), /says something else here|not signed by a CA that this node believes/);
    assert.equal(changes(root).length, 2);
  });

  it('names a CA that somebody put into a file: that of the node, and that of a listener', async () => {
    const made = ['-keyout', 'other.key', '-out', 'other.crt', '-subj', '/CN=other', '-days', '2'];
    openssl(
      ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', ...made],
      cluster.folder,
    );
    const foreign = fingerprint(at('other.crt'));
    const pem = readFileSync(at('other.crt'), 'utf8');
    appendFileSync(join(edge.folder, 'ca.crt'), pem);
    await eventually('the node says so', () => changes(edge).length === 3, SOON_MS);
    assert.deepEqual(changes(edge)[2], { added: [foreign], removed: [] });
    assert.deepEqual(changes(edge, listener), []);
    writeFileSync(at('apps.crt'), pem);
    await eventually('the listener says so', () => changes(edge, listener).length === 1, SOON_MS);
    assert.deepEqual(changes(edge, listener), [{ added: [foreign], removed: [fingerprint(at('apps', 'ca.crt'))] }]);
    const { code, err } = await tokaido(['audit', 'verify', join(edge.folder, 'audit.log')]);
    assert.equal(code, 0, err);
  });
});
