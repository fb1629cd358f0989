/** What nobody allowed is not there: followers without a rule, listeners for clients beyond this machine. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect } from 'node:tls';
import { parse, stringify } from 'yaml';
import { issueCertificate } from '../../src/pki/ca/ca.js';
import { tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { eventually } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';

describe('a root that was not told who may follow', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;

  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root' });
    // As somebody writes it who has read nothing: a certificate of the cluster, and no word of scopes.
    const path = join(root.folder, 'node.yaml');
    const { replication: _, ...bare } = parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    writeFileSync(path, stringify(bare));
    const config = { replication: { reconnectMinMs: 20, reconnectMaxMs: 100 } };
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
    cluster.start(root);
    await cluster.ready(root);
    cluster.start(edge);
  });
  after(async () => await cluster.close());

  it('lets no certificate of the cluster follow, and both sides say why', async () => {
    const told = /refused by the upstream \(SCOPE\): .*follow nothing.*\(replication\.scopes\)/;
    await eventually('the edge is told', () => told.test(cluster.log(edge)));
    assert.equal(await cluster.isReady(edge), false);
    assert.match(cluster.log(root), /only nodes whose certificates name a scope may follow this one/);
  });

  it('takes its first rule on SIGHUP, without a restart', async () => {
    const path = join(root.folder, 'node.yaml');
    const settings = parse(readFileSync(path, 'utf8')) as object;
    const adopt = (scopes: unknown): void => {
      writeFileSync(path, stringify({ ...settings, replication: { scopes } }));
      root.process?.kill('SIGHUP');
    };
    adopt([{ names: ['edge'], databases: ['default'] }]);
    await cluster.ready(edge);
    const scope = async (): Promise<string> => (await cluster.status(root)).followers.map((one) => one.scope).join();
    await eventually('it follows', async () => (await scope()) === 'default');
    adopt('all');
    await eventually('it follows with everything', async () => (await scope()) === 'all');
    adopt([]);
    await eventually('it is cut off', async () => ['', 'nothing'].includes(await scope()));
    assert.equal(root.starts, 1);
  });
});

describe('a listener that takes every client certificate of the cluster', () => {
  it('takes none of a node, unless it is named', async () => {
    const cluster = await Cluster.create();
    try {
      const [plain, open, named] = [await freePort(), await freePort(), await freePort()];
      const tls = { certificate: 'node.crt', key: 'node.key', clientCa: 'ca.crt' };
      const clients = [{ port: plain }, { port: open, tls }, { port: named, tls: { ...tls, names: ['edge'] } }];
      const admin = await freePort();
      const root = await cluster.add({
        name: 'root',
        role: 'root',
        config: { listen: { clients, admin: { port: admin }, replication: false } },
      });
      for (const [role, name] of [
        ['edge', 'edge'],
        ['client', 'app'],
      ] as const) {
        const issued = {
          ca: join(cluster.folder, 'ca'),
          out: join(cluster.folder, name),
          role,
          name,
          days: 1,
        } as const;
        await issueCertificate({ ...issued, dns: [], ip: [], nowMs: Date.now() });
      }
      cluster.start(root);
      await cluster.ready({ ...root, adminPort: admin });
      /** What a GET over a connection with this certificate begins with; empty when it is cut. */
      const ask = async (port: number, as: string): Promise<string> => {
        const pem = (file: string): string => readFileSync(join(cluster.folder, as, file), 'utf8');
        const proof = { cert: pem('node.crt'), key: pem('node.key'), ca: pem('ca.crt') };
        const socket = connect({ port, host: '127.0.0.1', checkServerIdentity: () => undefined, ...proof });
        socket.on('error', () => undefined);
        let received = '';
        socket.on('data', (chunk: Buffer) => {
          received += chunk.toString('latin1');
        });
        socket.write('GET /k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
        await eventually('it is answered or cut', () => socket.closed);
        return received.slice(0, 12);
      };
      assert.equal(await ask(open, 'app'), 'HTTP/1.1 404');
      assert.equal(await ask(open, 'edge'), '');
      assert.match(cluster.log(root), /its certificate is that of the edge edge, not of a client/);
      assert.equal(await ask(named, 'edge'), 'HTTP/1.1 404');
    } finally {
      await cluster.close();
    }
  });
});

describe('a listener for clients beyond this machine', () => {
  it('does not start without a word of who may do what', async () => {
    const bare = ['serve', '--data', 'data', '--port', '0', '--admin', '0'];
    for (const more of [
      ['--host', '0.0.0.0'],
      ['--aux-port', '0', '--aux-host', '0.0.0.0'],
      ['--memcached', '0', '--memcached-options', 'host=0.0.0.0'],
    ]) {
      const { code, err } = await tokaido([...bare, ...more]);
      assert.notEqual(code, 0);
      assert.match(
        err,
        /on 0\.0\.0\.0:\d+ whoever reaches it could do everything: give it a policy, or tls with clientCa/,
      );
    }
  });
});
