/** Machines that join with a token, and nodes that renew by themselves: through a relay, without an operator. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect } from 'node:tls';
import { parse, stringify } from 'yaml';
import { joinCluster } from '../../src/node/certificates/join.js';
import type { NodeStatus } from '../../src/node/status/status.js';
import { createCa, createIntermediate, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { parseToken } from '../../src/pki/join-token.js';
import { json, tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

const SOON_MS = 20_000;
const DAY_MS = 86_400_000;

describe('a cluster whose root signs', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let relay: ClusterNode;
  const served: ServedNode[] = [];
  const at = (...names: string[]): string => join(cluster.folder, ...names);

  async function until(
    what: string,
    admin: number,
    holds: (status: NodeStatus) => boolean,
    log: () => string,
  ): Promise<NodeStatus> {
    const start = performance.now();
    for (;;) {
      try {
        const response = await fetch(`http://127.0.0.1:${admin}/status`, { signal: AbortSignal.timeout(2000) });
        const status = (await response.json()) as NodeStatus;
        if (holds(status)) return status;
      } catch {
        // Not up yet.
      }
      if (performance.now() - start > SOON_MS) throw new Error(`${what}\n${log().slice(-3000)}`);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }

  before(async () => {
    cluster = await Cluster.create();
    const online = { folder: at('online'), name: 'online', days: 100, nowMs: Date.now() };
    await createIntermediate(online, openCa(at('ca')));
    const config = { replication: { reconnectMinMs: 50, reconnectMaxMs: 200 } };
    root = await cluster.add({
      name: 'root',
      role: 'root',
      config: { ...config, signing: { ca: '../online', days: 7 }, audit: { file: 'audit.log' } },
    });
    relay = await cluster.add({ name: 'relay', role: 'relay', upstreams: [root], config });
    for (const node of [root, relay]) cluster.start(node);
    for (const node of [root, relay]) await cluster.ready(node);
  });
  after(async () => {
    for (const node of served) await node.stop();
    await cluster.close();
  });

  async function token(...more: string[]): Promise<{ id: string; token: string }> {
    const made = await tokaido([
      'token',
      'create',
      '--ca',
      at('online'),
      '--admin',
      `127.0.0.1:${root.adminPort}`,
      '--json',
      '--scope',
      '*',
      ...more,
    ]);
    assert.equal(made.code, 0, made.err);
    return json(made) as { id: string; token: string };
  }
  const join_ = async (text: string, ...more: string[]): ReturnType<typeof tokaido> =>
    await tokaido(['join', `https://127.0.0.1:${relay.replicationPort}`, '--token', text, '--json', ...more]);

  /** The same without a process of its own. */
  const joinAs = async (text: string, folder: string): Promise<unknown> => {
    const parsed = parseToken(text);
    const name = parsed.name.replace('*', 'x');
    const where = { host: '127.0.0.1', port: relay.replicationPort, folder: at(folder) };
    return await joinCluster({ ...where, token: parsed, name, dns: [], ip: [] });
  };

  it('makes a bare machine a serving edge with a token and the address of a relay', async () => {
    const { token: text } = await token('--role', 'edge', '--name', 'edge-*');
    const out = at('joined');
    const joined = await join_(text, '--name', 'edge-7', '--out', out);
    assert.equal(joined.code, 0, joined.err);
    assert.match(String(json(joined).identity), /\/edge\/edge-7$/);
    assert.equal(statSync(join(out, 'node.key')).mode & 0o777, 0o600);
    const settings = parse(readFileSync(join(out, 'node.yaml'), 'utf8')) as { upstreams: object[] };
    assert.deepEqual(settings.upstreams, [{ address: `127.0.0.1:${relay.replicationPort}`, name: 'relay' }]);
    const [client, admin] = [await freePort(), await freePort()];
    writeFileSync(
      join(out, 'node.yaml'),
      stringify({ ...settings, listen: { clients: { port: client }, admin: { port: admin } } }),
    );
    const edge = await ServedNode.start(['--config', join(out, 'node.yaml')], out);
    served.push(edge);
    await fetch(`http://127.0.0.1:${root.clientPort}/k`, { method: 'PUT', body: 'v' });
    const { certificate } = await until(
      'it follows',
      admin,
      ({ upstream }) => upstream?.state === 'following',
      () => edge.log,
    );
    assert.ok((certificate?.expiresInMs ?? 0) < 7 * DAY_MS && (certificate?.expiresInMs ?? 0) > 6.9 * DAY_MS);
    const listed = await tokaido(['token', 'list', '--admin', `127.0.0.1:${root.adminPort}`]);
    assert.match(listed.out.toString(), /used by edge-7 {2}edge edge-\* {2}scope \* {2}until/);
    const audited = readFileSync(join(root.folder, 'audit.log'), 'utf8');
    assert.match(audited, /"node\.joined".*edge\/edge-7/);
    assert.ok(!cluster.log(root).includes(text.slice(30)) && !cluster.log(relay).includes(text.slice(30)));
  });

  it('refuses a token that was used, is revoked, is for another role or name, or was never made', async () => {
    const { token: used } = await token('--name', 'once');
    await joinAs(used, 'once');
    await assert.rejects(joinAs(used, 'twice'), /was used already, by once/);
    const { id, token: revoked } = await token('--name', 'never');
    const ended = await tokaido([
      'token',
      'revoke',
      '--ca',
      at('online'),
      '--admin',
      `127.0.0.1:${root.adminPort}`,
      '--id',
      id,
    ]);
    assert.equal(ended.code, 0, ended.err);
    await assert.rejects(joinAs(revoked, 'never'), /is revoked/);
    // Another role or name than the CA signed, by a machine that writes its token anew.
    const { token: edge } = await token('--role', 'edge', '--name', 'only-this');
    const parts = JSON.parse(Buffer.from(edge.split('.')[1] as string, 'base64url').toString()) as string[];
    const rewritten = (role: string, name: string): string =>
      `tokaido-join-1.${Buffer.from(JSON.stringify([parts[0], parts[1], role, name])).toString('base64url')}`;
    assert.match(
      (await join_(rewritten('relay', 'only-this'), '--out', at('r'))).err,
      /is for the role edge, not relay/,
    );
    await assert.rejects(joinAs(rewritten('edge', 'other'), 'n'), /is for names only-this, not other/);
    const guessed = `tokaido-join-1.${Buffer.from(JSON.stringify(['A'.repeat(43), parts[1], 'edge', 'x'])).toString('base64url')}`;
    await assert.rejects(joinAs(guessed, 'g'), /there is no such token/);
    for (const folder of ['twice', 'never', 'r', 'n', 'g']) assert.ok(!existsSync(at(folder)), folder);
    // What was refused did not use it up.
    await joinAs(edge, 'only-this');
  });

  it('certifies host names and addresses that the token allows, and no others', async () => {
    const join = async (text: string, out: string, ...hosts: string[]): ReturnType<typeof tokaido> =>
      await join_(text, '--out', at(out), ...hosts);
    const { token: none } = await token('--name', 'poser');
    // Whoever holds it would answer for the root to clients that check the name.
    const posed = await join(none, 'poser', '--dns', 'root.example');
    assert.notEqual(posed.code, 0);
    assert.match(posed.err, /is not for the host name or address root\.example.*--hosts/);
    const { token: some } = await token('--name', 'named', '--hosts', 'named-*.example', '10.0.0.7');
    for (const host of [
      ['--dns', 'named-1.example', 'root.example'],
      ['--dns', '*.example'],
      ['--ip', '10.0.0.8'],
      ['--dns', 'named-1xexample'],
    ])
      assert.match((await join(some, 'named', ...host)).err, /is not for the host name or address/, host.join(' '));
    const joined = await join(some, 'named', '--dns', 'named-1.example', '--ip', '10.0.0.7');
    assert.equal(joined.code, 0, `what was refused did not use it up: ${joined.err}`);
    const { subjectAltName } = new X509Certificate(readFileSync(at('named', 'node.crt')));
    assert.match(subjectAltName ?? '', /DNS:named-1\.example, IP Address:10\.0\.0\.7/);
    const wrong = await tokaido([
      'token',
      'create',
      '--ca',
      at('online'),
      '--name',
      'x',
      '--scope',
      '*',
      '--hosts',
      'a b',
    ]);
    assert.match(wrong.err, /no host names or addresses of a token/);
  });

  it('gives a name that somebody has only to a token for exactly that name', async () => {
    const { token: open } = await token('--name', 'onc*');
    const { token: exact } = await token('--name', 'once');
    const parsed = parseToken(open);
    const where = { host: '127.0.0.1', port: relay.replicationPort, folder: at('taken'), dns: [], ip: [] };
    await assert.rejects(joinCluster({ ...where, token: parsed, name: 'once' }), /the name once is taken/);
    await joinCluster({ ...where, token: parsed, name: 'onceler', folder: at('onceler') });
    await joinAs(exact, 'again');
  });

  it('takes no token that a CA of the cluster did not sign', async () => {
    await createCa({ folder: at('foreign'), name: 'foreign', days: 10, nowMs: Date.now() });
    const made = await tokaido([
      'token',
      'create',
      '--ca',
      at('foreign'),
      '--name',
      'x',
      '--scope',
      '*',
      '--admin',
      `127.0.0.1:${root.adminPort}`,
    ]);
    assert.equal(made.code, 1);
    assert.match(made.err, /not signed by a CA that this node believes/);
  });

  it('prints the token alone, so that a shell can keep it, and says beside it what it is good for', async () => {
    const where = ['--ca', at('online'), '--admin', `127.0.0.1:${root.adminPort}`];
    const made = await tokaido(['token', 'create', ...where, '--name', 'kept', '--scope', '*']);
    assert.equal(made.code, 0, made.err);
    assert.match(made.out.toString(), /^tokaido-join-1\.[\w-]+\n$/);
    assert.match(made.err, /^once, until .*, for edge kept \(id [0-9a-f]{16}\)\n$/);
  });

  it('tells a machine that it speaks to another cluster before anything is sent', async () => {
    const other = await Cluster.create();
    try {
      const impostor = await other.add({ name: 'root', role: 'root' });
      other.start(impostor);
      await other.ready(impostor);
      const { token: text } = await token('--name', 'lured');
      const lured = await tokaido([
        'join',
        `https://127.0.0.1:${impostor.replicationPort}`,
        '--token',
        text,
        '--out',
        at('lured'),
      ]);
      assert.equal(lured.code, 1);
      assert.match(
        lured.err,
        /not a node of the cluster that the token is for: its CA is another one\nhint: .*nothing was sent/,
      );
      assert.doesNotMatch(other.log(impostor), /request for a certificate/);
      await joinAs(text, 'lured');
    } finally {
      await other.close();
    }
  });

  it('answers garbage at the door with silence, and goes on', async () => {
    for (const bytes of ['\n', '{}\n', `${'x'.repeat(200_000)}\n`]) {
      const socket = connect({
        port: relay.replicationPort,
        host: '127.0.0.1',
        rejectUnauthorized: false,
        ALPNProtocols: ['tokaido-join/1'],
      });
      socket.on('error', () => undefined);
      let received = '';
      socket.on('data', (chunk: Buffer) => (received += chunk.toString()));
      await new Promise<void>((resolve) => {
        socket.on('secureConnect', () => socket.write(bytes));
        socket.on('close', () => resolve());
      });
      assert.doesNotMatch(received, /PRIVATE|certificatePem/);
    }
    assert.equal((await cluster.status(relay)).upstream?.state, 'following');
  });

  it('renews what has lived two thirds of its life: the root, a relay, and an edge through it, without a restart', async () => {
    // With the skew that certificates are dated back by, these have had most of their life already.
    const days = 1 / 24 / 30;
    const edge = await cluster.add({ name: 'brief', role: 'edge', upstreams: [relay] });
    const short = {
      ca: at('ca'),
      role: 'edge',
      name: 'brief',
      days,
      dns: ['brief.example'],
      ip: [],
      nowMs: Date.now(),
    } as const;
    await issueCertificate({ ...short, out: at('short') });
    for (const name of ['node.crt', 'node.key'])
      writeFileSync(join(edge.folder, name), readFileSync(at('short', name)));
    cluster.start(edge);
    await cluster.ready(edge);
    const log = (): string => cluster.log(edge);
    const isRenewed = ({ certificate, upstream }: NodeStatus): boolean =>
      (certificate?.expiresInMs ?? 0) > DAY_MS && upstream?.state === 'following';
    const { certificate } = await until('it is renewed', edge.adminPort, isRenewed, log);
    assert.equal(certificate?.renewal?.failures, 0);
    assert.match(log(), /the certificate of this node is renewed/);
    const renewed = readFileSync(join(edge.folder, 'node.crt'), 'utf8');
    assert.equal(renewed.split('BEGIN').length - 1, 2, 'the intermediate stands behind it');
    assert.equal(edge.starts, 1);
  });
});

describe('a cluster whose root does not sign', () => {
  it('warns early where a certificate cannot be renewed: in the log, in status and in metrics', async () => {
    const cluster = await Cluster.create();
    try {
      const root = await cluster.add({ name: 'root', role: 'root' });
      const short = {
        ca: join(cluster.folder, 'ca'),
        role: 'root',
        name: 'root',
        days: 1 / 24,
        dns: [],
        ip: [],
      } as const;
      await issueCertificate({ ...short, out: join(cluster.folder, 'short'), nowMs: Date.now() - 50 * 60_000 });
      for (const name of ['node.crt', 'node.key'])
        writeFileSync(join(root.folder, name), readFileSync(join(cluster.folder, 'short', name)));
      cluster.start(root);
      await cluster.ready(root);
      const start = performance.now();
      for (;;) {
        const { certificate } = await cluster.status(root);
        if ((certificate?.renewal?.failures ?? 0) > 0) {
          assert.match(certificate?.renewal?.lastError ?? '', /signs no certificates/);
          break;
        }
        assert.ok(performance.now() - start < SOON_MS, cluster.log(root).slice(-2000));
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const metrics = await (await fetch(`http://127.0.0.1:${root.adminPort}/metrics`)).text();
      assert.match(metrics, /tokaido_renewal_failures_total [1-9]/);
      assert.match(cluster.log(root), /could not be renewed/);
      const shown = await tokaido(['status', '--admin', `127.0.0.1:${root.adminPort}`]);
      assert.match(shown.out.toString(), /NOT RENEWED: /);
    } finally {
      await cluster.close();
    }
  });
});
