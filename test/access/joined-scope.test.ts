/** Nodes that joined with a token are held to its scope: real machines, from root and relay that have no rules of their own. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { parse, stringify } from 'yaml';
import { silentLogger } from '../../src/base/logger.js';
import { createIntermediate, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { loadNodeIdentity } from '../../src/pki/identity.js';
import { LiveValue } from '../../src/pki/live.js';
import { scopeNames } from '../../src/pki/scope-names.js';
import { encodeFrame, type Frame, FrameDecoder } from '../../src/replication/frames/frames.js';
import { Scope } from '../../src/replication/scope.js';
import type { Link, LinkHandlers } from '../../src/transport/link.js';
import { connectToUpstream } from '../../src/transport/tls-link.js';
import { tokaido } from '../support/cli.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';
import { databasesIn, framesIn, recordingInto, recordingsIn, shownTo, withUnpacked } from '../support/received.js';
import { ServedNode } from '../support/serve.js';

const SOON_MS = 20_000;
const SECRET = 'never to leave';
/** Outside of the edge's scope, in every way that something may be: database, key, value; names in certificates, too. */
const OUTSIDE = [SECRET, 'vault-of-the-root', 'fr/outside', 'later', 'hidden', 'master', 'flag-of-the-relay', 'flags'];

describe('a cluster whose nodes join with tokens', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  const served: ServedNode[] = [];

  interface Machine {
    readonly folder: string;
    readonly clients: number;
    readonly admin: number;
    readonly replication: number;
    readonly node: ServedNode;
  }
  let relay: Machine;
  let edge: Machine;

  const at = (...parts: string[]): string => join(cluster.folder, ...parts);
  /** Where everything is that came to a machine over TLS, decrypted. */
  const received = (name: string, part: 'join' | 'links'): string => at('received', name, part);
  const create = async (...flags: string[]): ReturnType<typeof tokaido> => {
    const where = ['--ca', at('online'), '--admin', `127.0.0.1:${root.adminPort}`];
    return await tokaido(['token', 'create', ...where, '--json', ...flags]);
  };

  /** From a bare machine to a serving node; of its configuration only ports are added to what `join` wrote. */
  async function joined(name: string, role: 'relay' | 'edge', upstreamPort: number, scope: string[]): Promise<Machine> {
    const made = await create('--role', role, '--name', name, '--scope', ...scope);
    assert.equal(made.code, 0, made.err);
    const { token } = JSON.parse(made.out.toString()) as { token: string };
    const folder = at(name);
    const env = recordingInto(received(name, 'join'));
    const address = `https://127.0.0.1:${upstreamPort}`;
    const { code, err } = await tokaido(['join', address, '--token', token, '--out', folder], { env });
    assert.equal(code, 0, err);
    const [clients, admin, replication] = [await freePort(), await freePort(), await freePort()];
    const settings = parse(readFileSync(join(folder, 'node.yaml'), 'utf8')) as object;
    assert.ok(!('replication' in settings), 'nobody wrote rules');
    const listen = { clients: { port: clients }, admin: { port: admin }, replication: { port: replication } };
    const config = { ...settings, listen };
    writeFileSync(join(folder, 'node.yaml'), stringify(config));
    return { folder, clients, admin, replication, node: await serve(name) };
  }

  async function serve(name: string): Promise<ServedNode> {
    const folder = at(name);
    const env = recordingInto(received(name, 'links'));
    const node = await ServedNode.start(['--config', join(folder, 'node.yaml')], folder, env);
    served.push(node);
    return node;
  }

  const put = async (path: string, body: string): Promise<void> => {
    const reply = await fetch(`http://127.0.0.1:${root.clientPort}/${path}`, { method: 'PUT', body });
    assert.equal(reply.status, 201);
  };
  const remove = async (path: string): Promise<void> => {
    await fetch(`http://127.0.0.1:${root.clientPort}/${path}`, { method: 'DELETE' });
  };
  const get = async ({ clients }: Machine, path: string): Promise<string | number> => {
    const reply = await fetch(`http://127.0.0.1:${clients}/${path}`);
    return reply.ok ? await reply.text() : reply.status;
  };
  /** Writes on and on, inside and outside of the edge's scope, until the function that it returns is called. */
  const storm = (): (() => Promise<void>) => {
    let isOver = false;
    const writing = (async () => {
      for (let i = 0; !isOver; i++) {
        await put(`dns/fr%2Foutside-${i}`, `${SECRET} ${i} ${'and again '.repeat(20)}`);
        await put(`vault-of-the-root/key-${i}`, SECRET);
        await put(`flags/flag-of-the-relay-${i}`, SECRET);
        await put(`dns/jp%2Fstorm-${i % 50}`, `seen by the edge ${i}`);
        if (i % 20 === 0) await remove(`dns/fr%2Foutside-${i}`);
      }
    })();
    return async () => {
      isOver = true;
      await writing;
    };
  };
  const followers = async (admin: number): Promise<Record<string, string>> => {
    const status = (await (await fetch(`http://127.0.0.1:${admin}/status`)).json()) as {
      followers: { name: string; scope: string }[];
    };
    return Object.fromEntries(status.followers.map(({ name, scope }) => [name, scope]));
  };
  const recordsOf = async (admin: number, database: string): Promise<number> => {
    const status = (await (await fetch(`http://127.0.0.1:${admin}/status`)).json()) as {
      databases: { name: string; records: number }[];
    };
    return status.databases.find(({ name }) => name === database)?.records ?? 0;
  };
  const isOnDisk = ({ folder }: Machine, text: string): boolean => {
    const data = join(folder, 'data');
    const files = readdirSync(data, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    return files.some((entry) => readFileSync(join(entry.parentPath ?? entry.path, entry.name)).includes(text));
  };

  /** What the root answers to a HELLO with this opening, over a link with the certificate in a folder. */
  async function greeted(folder: string, scopeOpening: Buffer | undefined): Promise<Frame[]> {
    const files = { certificate: join(folder, 'node.crt'), key: join(folder, 'node.key'), ca: join(folder, 'ca.crt') };
    const identity = new LiveValue(loadNodeIdentity(files, Date.now()));
    const { clusterId } = identity.current.identity;
    const hello = {
      version: 1,
      clusterId,
      self: { instanceId: 'ab'.repeat(16), name: 'brief' },
      position: [],
    } as const;
    const can = { seeded: false, isLook: false, takesHorizon: true, resumes: false, unpacks: [] } as const;
    const opening = scopeOpening === undefined ? {} : { scopeOpening };
    const scopeId = Scope.WHOLE.id;
    const decoder = new FrameDecoder();
    const frames: Frame[] = [];
    const closed = new Promise<void>((resolve, reject) => {
      const onLink = (link: Link): LinkHandlers => {
        link.send([encodeFrame({ type: 'hello', ...hello, ...can, scopeId, ...opening })]);
        const onData = (chunk: Buffer): void => {
          frames.push(...decoder.push(chunk));
          if (frames.some(({ type }) => type === 'welcome')) link.destroy('seen');
        };
        return { onData, onDrain: () => undefined, onClose: () => resolve() };
      };
      const to = { host: '127.0.0.1', port: root.replicationPort, expectedName: 'root', identity };
      connectToUpstream({ ...to, log: silentLogger, runtime: localRuntime(), onLink }).catch(reject);
    });
    await closed;
    return frames;
  }

  before(async () => {
    cluster = await Cluster.create();
    await createIntermediate({ folder: at('online'), name: 'online', days: 100, nowMs: Date.now() }, openCa(at('ca')));
    root = await cluster.add({
      name: 'root',
      role: 'root',
      config: {
        databases: ['dns', 'flags', 'keys', 'vault-of-the-root'],
        signing: { ca: '../online', days: 7 },
        replication: { scopes: 'certificates', heartbeatMs: 100, proofMs: 200 },
        audit: { file: 'audit.log' },
      },
    });
    cluster.start(root);
    await cluster.ready(root);
    await put('dns/jp%2Fa', 'one');
    await put('dns/fr%2Fhidden', `${SECRET} before`);
    await put('keys/jp%2Fmaster', `${SECRET} key`);
    const calm = storm();
    relay = await joined('relay-1', 'relay', root.replicationPort, ['dns', 'flags']);
    edge = await joined('edge-1', 'edge', relay.replication, ['dns/jp/', 'keys']);
    await eventually('the edge has the snapshot', async () => (await get(edge, 'dns/jp%2Fa')) === 'one', SOON_MS);
    await calm();
  });
  after(async () => {
    for (const node of served) await node.stop();
    await cluster.close();
  });

  it('gives each what its token names, and of that no more than the relay has', async () => {
    assert.equal(await get(edge, 'dns/jp%2Fa'), 'one');
    await put('dns/fr%2Flater', `${SECRET} after`);
    await put('keys/jp%2Flater', `${SECRET} key`);
    await put('dns/jp%2Flast', 'two');
    await eventually('the edge has the log', async () => (await get(edge, 'dns/jp%2Flast')) === 'two', SOON_MS);
    assert.deepEqual(await followers(root.adminPort), { 'relay-1': 'dns, flags' });
    assert.deepEqual(await followers(relay.admin), { 'edge-1': 'dns ("jp/")' });
    const shown = await tokaido(['status', '--admin', `127.0.0.1:${edge.admin}`]);
    assert.match(shown.out.toString(), /\nupstream +relay-1 at \S+: following for .*, sees dns \("jp\/"\)\n/);
    assert.equal(await get(relay, 'dns/fr%2Flater'), `${SECRET} after`);
    assert.equal(await get(edge, 'dns/fr%2Fhidden'), 404);
    for (const text of [SECRET, 'hidden', 'master', 'later', 'keys'])
      assert.ok(!isOnDisk(edge, text), `${text} lies on the disk of the edge`);
    assert.ok(isOnDisk(relay, `${SECRET} after`) && !isOnDisk(relay, `${SECRET} key`));
    const listed = await tokaido(['ca', 'list', '--ca', at('online')]);
    assert.match(listed.out.toString(), /edge\/edge-1 {2}valid {2}scope dns\/jp\/ keys\n/);
    const audited = readFileSync(join(root.folder, 'audit.log'), 'utf8');
    assert.match(audited, /"node\.joined".*edge\/edge-1.*tokaido-scope:dns\/jp%2F/);
  });

  it('holds a node to its token where the configuration would give it everything', async () => {
    const path = join(relay.folder, 'node.yaml');
    writeFileSync(path, `${readFileSync(path, 'utf8')}replication: { scopes: all }\n`);
    relay.node.signal('SIGHUP');
    await eventually('it is read', () => relay.node.log.includes('the policies of the configuration hold'));
    await put('dns/fr%2Fall', SECRET);
    await put('dns/jp%2Fall', 'three');
    await eventually('the edge follows on', async () => (await get(edge, 'dns/jp%2Fall')) === 'three', SOON_MS);
    assert.deepEqual(await followers(relay.admin), { 'edge-1': 'dns ("jp/")' });
    assert.ok(!isOnDisk(edge, SECRET));
  });

  it('is sent not a byte from outside its scope: joining, seeded, following, and when its link begins again', async () => {
    const calm = storm();
    await edge.node.stop();
    edge = { ...edge, node: await serve('edge-1') };
    await put('dns/jp%2Fend', 'the end');
    await eventually('the edge has the end', async () => (await get(edge, 'dns/jp%2Fend')) === 'the end', SOON_MS);
    await calm();
    const proofs = (): number =>
      recordingsIn(received('edge-1', 'links'))
        .flatMap(framesIn)
        .filter(({ type }) => type === 'proof').length;
    const before = proofs();
    await eventually('another proof came', () => proofs() > before, SOON_MS);

    const answers = recordingsIn(received('edge-1', 'join'));
    const [own = [], toRelay = []] = ['edge-1', 'relay-1'].map((name) => recordingsIn(received(name, 'links')));
    assert.ok(answers.length === 1 && own.length >= 2);
    const shown = ['join', 'links'].map((part) => shownTo(received('edge-1', part as 'join' | 'links')));
    assert.ok(
      shown.every((certificates) => certificates.includes('/relay/relay-1')),
      'the relay has shown who it is',
    );
    const text = Buffer.concat([...answers, ...own.map(withUnpacked), ...shown]).toString('latin1');
    for (const word of OUTSIDE) assert.ok(!text.includes(word), `${word} was sent to the edge`);
    // That these are the bytes: what is inside is there, and what the relay may see was sent to the relay.
    assert.ok(text.includes('jp/a') && text.includes('seen by the edge') && text.includes('the end'));
    // The relay was asked by the machine that joined, too: that is JSON.
    const links = toRelay.filter((bytes) => bytes[0] !== '{'.charCodeAt(0));
    const relayed = Buffer.concat(links.map(withUnpacked)).toString('latin1');
    for (const word of [SECRET, 'fr/outside', 'flag-of-the-relay']) assert.ok(relayed.includes(word), word);
    assert.ok(!relayed.includes('vault-of-the-root'));

    const frames = own.flatMap(framesIn);
    const kinds = new Set(frames.map(({ type }) => type));
    for (const kind of ['welcome', 'snapshotBegin', 'snapshotEnd', 'batch', 'heartbeat', 'proof'] as const)
      assert.ok(kinds.has(kind), `no ${kind} came`);
    assert.deepEqual([...databasesIn(frames)].toSorted(), ['.tokaido', 'dns']);
    // Of a database that is seen in part: how many records are in that part, and their hash, as the edge has them itself.
    const seen = await recordsOf(edge.admin, 'dns');
    const inAll = await recordsOf(relay.admin, 'dns');
    assert.ok(seen < inAll);
    for (const frame of frames) {
      const part = frame.type === 'snapshotBegin' || frame.type === 'proof' ? frame.databases : [];
      const most = frame.type === 'proof' ? seen : 0;
      for (const database of part.filter(({ name }) => name === 'dns')) assert.ok(database.records <= most);
    }
    const proven = frames.flatMap((frame) => (frame.type === 'proof' ? frame.databases : []));
    assert.ok(proven.some((database) => database.name === 'dns' && database.proven !== undefined));
  });

  it('keeps a hidden scope when a certificate is renewed, through the relay, and over a restart', async () => {
    const days = 1 / 24 / 30;
    const upstreams = [{ address: `127.0.0.1:${relay.replication}`, name: 'relay-1' }];
    const brief = await cluster.add({ name: 'brief', role: 'edge', config: { upstreams } });
    const scope = scopeNames(['flags/only/']);
    const short = { ca: at('online'), out: at('short'), role: 'edge', name: 'brief', days, scope } as const;
    await issueCertificate({ ...short, dns: [], ip: [], nowMs: Date.now() });
    for (const file of ['node.crt', 'node.key', 'node.scope'])
      copyFileSync(at('short', file), join(brief.folder, file));
    const path = join(brief.folder, 'node.crt');
    const names = (): string => new X509Certificate(readFileSync(path)).subjectAltName ?? '';
    const before = names();
    assert.match(before, /URI:tokaido-scope:\?sha256=[0-9a-f]{64}/);
    cluster.start(brief);
    await cluster.ready(brief);
    const renewed = async (): Promise<boolean> => {
      return ((await cluster.status(brief)).certificate?.expiresInMs ?? 0) > 86_400_000;
    };
    await eventually('it is renewed', renewed, SOON_MS);
    assert.equal(names(), before);
    await cluster.stop(brief);
    cluster.start(brief);
    await cluster.ready(brief);
    await eventually('it follows', async () => (await followers(relay.admin)).brief !== undefined, SOON_MS);
    const { brief: seen } = await followers(relay.admin);
    assert.equal(seen, 'flags ("only/")');
    await put('flags/only%2Fa', 'one');
    await eventually('it is sent its part', async () => (await cluster.status(brief)).position.length > 0, SOON_MS);
  });

  it('tells nothing to who does not open the scope of its certificate, or shows what opens another', async () => {
    const opening = (...parts: string[]): Buffer => readFileSync(at(...parts, 'node.scope'));
    for (const [scopeOpening, message] of [
      [undefined, /hides its scope, and nothing was sent that opens it/],
      [opening('edge-1'), /hides its scope, and what was sent does not open it/],
      [Buffer.from(String(opening('short')).replace('only', 'more')), /does not open it/],
      [Buffer.alloc(9000, 'x'), /does not open it/],
    ] as const) {
      const frames = await greeted(at('short'), scopeOpening);
      assert.deepEqual(
        frames.map(({ type }) => type),
        ['refuse'],
      );
      const [refusal] = frames;
      assert.ok(refusal?.type === 'refuse' && refusal.code === 'SCOPE');
      assert.match(refusal.message, message);
    }
    const [welcome] = await greeted(at('short'), opening('short'));
    assert.equal(welcome?.type, 'welcome');
    const events = readFileSync(join(root.folder, 'audit.log'), 'utf8').split('\n');
    const refused = events.filter((line) => line.includes('"follower.refused"') && line.includes('stays hidden'));
    assert.equal(refused.length, 4);
    assert.ok(events.some((line) => line.includes('"follower.scoped"') && line.includes('flags (\\"only/\\")')));
  });

  it('makes no token for a follower that says nothing of its scope, nor one with a scope for who follows nobody', async () => {
    for (const [flags, message] of [
      [['--role', 'edge', '--name', 'x'], /say with --scope what the edge may follow/],
      [['--role', 'relay', '--name', 'x', '--scope', 'dns/'], /is not part of a scope.*or '\*' for every database/s],
      [['--role', 'client', '--name', 'x', '--scope', '*'], /a client has no scope/],
    ] as const) {
      const { code, err } = await create(...flags);
      assert.notEqual(code, 0);
      assert.match(err, message);
    }
  });
});
