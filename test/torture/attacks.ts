/**
 * Everything that somebody without the right to it may try at the replication port, against real processes: strangers of
 * every kind, bytes recorded and played again, bytes altered on the wire, guessed tokens. Nobody gets in, links come back,
 * and in the end every node has what was written, and nothing else.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, connect } from 'node:tls';
import { createCa, issueCertificate, newKeys, openCa } from '../../src/pki/ca/ca.js';
import { revoke, writeCrl } from '../../src/pki/ca/records.js';
import { encodeRequest, publicKeyText } from '../../src/pki/enrollment.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { Middle } from '../support/middle.js';
import { OpensslCa } from '../support/openssl.js';
import { Dice } from '../support/random.js';
import { honestFrames } from './frames.js';
import { clock, type Report, settles, type Torture, type TortureOptions, type TortureResult } from './torture.js';

const ATTACK_MS = 5_000;
const DAY_MS = 86_400_000;
/** Certificates that a stranger may show. */
const STRANGERS = [
  'none',
  'self-signed',
  'other-ca',
  'expired',
  'early',
  'revoked',
  'other-cluster',
  'client',
  'root',
] as const;
type Stranger = (typeof STRANGERS)[number];

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

class Attacks {
  readonly #dice: Dice;
  readonly #report: Report;
  #cluster: Cluster | undefined;
  #root: ClusterNode | undefined;
  #relay: ClusterNode | undefined;
  #edge: ClusterNode | undefined;
  readonly #middles: Middle[] = [];
  readonly #strangers = new Map<Stranger, ConnectionOptions>();
  #clusterId = '';
  #writing = true;
  #writer: Promise<void> = Promise.resolve();
  readonly #written = new Map<string, string>();
  readonly counts: Record<string, number> = {};
  failed = 0;

  constructor(dice: Dice, report: Report) {
    this.#dice = dice;
    this.#report = report;
  }

  #at(...names: string[]): string {
    return join((this.#cluster as Cluster).folder, ...names);
  }

  async setUp(): Promise<void> {
    const cluster = await Cluster.create({ nodeFlags: ['--no-opt', '--single-threaded-gc'] });
    this.#cluster = cluster;
    const replication = { heartbeatMs: 200, reconnectMinMs: 20, reconnectMaxMs: 200, silenceMs: 2000 };
    const root = await cluster.add({ name: 'root', role: 'root', config: { replication } });
    const relay = await this.#behind(root, 'relay', 'relay', replication);
    const edge = await this.#behind(relay, 'edge', 'edge', replication);
    [this.#root, this.#relay, this.#edge] = [root, relay, edge];
    await this.#makeStrangers();
    for (const node of [root, relay, edge]) cluster.start(node);
    for (const node of [root, relay, edge]) await cluster.ready(node);
    const { pem } = await writeCrl([openCa(this.#at('ca'))], { days: 1, nowMs: Date.now() });
    await fetch(`http://127.0.0.1:${root.adminPort}/crl`, { method: 'POST', body: pem });
    await this.#until('the relay knows who is revoked', async () => {
      return (await cluster.status(relay)).revocation?.revoked === 1;
    });
    this.#writer = this.#write(root);
  }

  /** A node whose only way to its upstream leads through a machine in the middle. */
  async #behind(
    upstream: ClusterNode,
    name: string,
    role: 'relay' | 'edge',
    replication: object,
  ): Promise<ClusterNode> {
    const middle = new Middle(upstream.replicationPort);
    await middle.listen();
    this.#middles.push(middle);
    const upstreams = [{ address: `127.0.0.1:${middle.port}`, name: upstream.name }];
    return await (this.#cluster as Cluster).add({ name, role, config: { upstreams, replication } });
  }

  async #makeStrangers(): Promise<void> {
    const nowMs = Date.now();
    const make = async (
      stranger: Stranger,
      ca: string,
      role: 'client' | 'edge' | 'root',
      madeMs = nowMs,
      days = 2,
    ): Promise<void> => {
      const out = this.#at(`stranger-${stranger}`);
      await issueCertificate({ ca: this.#at(ca), out, role, name: stranger, days, dns: [], ip: [], nowMs: madeMs });
      this.#strangers.set(stranger, {
        cert: readFileSync(join(out, 'node.crt')),
        key: readFileSync(join(out, 'node.key')),
      });
    };
    await createCa({ folder: this.#at('theirs'), name: 'theirs', days: 30, nowMs });
    this.#strangers.set('none', {});
    await make('other-ca', 'theirs', 'edge');
    await make('expired', 'ca', 'edge', nowMs - 3 * DAY_MS, 1);
    await make('early', 'ca', 'edge', nowMs + DAY_MS);
    await make('revoked', 'ca', 'edge');
    await make('client', 'ca', 'client');
    await make('root', 'ca', 'root');
    revoke(this.#at('ca'), { name: 'revoked' }, nowMs);
    this.#clusterId = openCa(this.#at('ca')).clusterId;
    const ca = { certificate: this.#at('ca', 'ca.crt'), key: this.#at('ca', 'ca.key') };
    const named = (cluster: string): string[] => [
      `subjectAltName=URI:tokaido://${cluster}/edge/x`,
      'extendedKeyUsage=serverAuth,clientAuth',
    ];
    const wrong = OpensslCa.of(this.#at('by-hand'), ca).issue('wrong', named('f'.repeat(32)));
    this.#strangers.set('other-cluster', { cert: readFileSync(wrong.certificate), key: readFileSync(wrong.key) });
    // A CA of a stranger's own that carries a node's name itself.
    const self = OpensslCa.create(this.#at('self'), 'edge');
    this.#strangers.set('self-signed', { cert: readFileSync(self.certificate), key: readFileSync(self.key) });
  }

  async #write({ clientPort }: ClusterNode): Promise<void> {
    for (let i = 0; this.#writing; i++) {
      const key = `k${i % 500}`;
      const value = createHash('sha256').update(`${i}`).digest('hex');
      const response = await fetch(`http://127.0.0.1:${clientPort}/${key}`, { method: 'PUT', body: value }).catch(
        () => undefined,
      );
      if (response?.status === 201) this.#written.set(key, value);
      await sleep(4);
    }
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    await settles(what, holds, (text) => this.#fail(text));
  }

  #fail(text: string): void {
    this.failed++;
    this.#report.failure(text);
  }

  #target(): ClusterNode {
    return (this.#dice.chance(0.5) ? this.#root : this.#relay) as ClusterNode;
  }

  /** Everything that came back before the connection ended, or the end of patience. */
  async #exchange(
    options: ConnectionOptions,
    bytes: Buffer,
    versions = true,
  ): Promise<{ received: Buffer; closed: boolean }> {
    const { replicationPort: port } = this.#target();
    return await new Promise((resolve) => {
      const chunks: Buffer[] = [];
      const socket = connect({
        host: '127.0.0.1',
        port,
        rejectUnauthorized: false,
        ...(versions ? { ALPNProtocols: ['tokaido/1'] } : {}),
        ...options,
      });
      const end = (closed: boolean): void => {
        clearTimeout(timer);
        socket.destroy();
        resolve({ received: Buffer.concat(chunks), closed });
      };
      const timer = setTimeout(() => end(false), ATTACK_MS);
      socket.on('error', () => undefined);
      socket.on('secureConnect', () => socket.write(bytes));
      socket.on('data', (chunk: Buffer) => chunks.push(chunk));
      socket.on('close', () => end(true));
    });
  }

  /** A stranger says hello like an honest follower, and must be told nothing. */
  async stranger(): Promise<void> {
    const kind = this.#dice.pick(STRANGERS);
    const hello = honestFrames(this.#clusterId)[0] as Buffer;
    const { received, closed } = await this.#exchange(this.#strangers.get(kind) as ConnectionOptions, hello);
    // Type 3 is REFUSE: a reason is all that somebody with a certificate of the CA may be given.
    const isToldNothing = received.length === 0 || received[4] === 3;
    if (!closed || !isToldNothing)
      this.#fail(`a stranger (${kind}) was ${closed ? 'told' : 'kept, and told'} ${received.length} bytes`);
  }

  async oldTls(): Promise<void> {
    const edge = (this.#edge as ClusterNode).folder;
    const own = { cert: readFileSync(join(edge, 'node.crt')), key: readFileSync(join(edge, 'node.key')) };
    const version = this.#dice.pick(['TLSv1', 'TLSv1.1', 'TLSv1.2'] as const);
    const options = { ...own, minVersion: version, maxVersion: version, ciphers: 'ALL:@SECLEVEL=0' };
    const { received, closed } = await this.#exchange(options, Buffer.from('x'));
    if (!closed || received.length > 0) this.#fail(`${version} was spoken`);
  }

  /** What a follower once said is said again, byte for byte. */
  async replay(): Promise<void> {
    const recorded = this.#dice.pick(this.#middles).recorded;
    const said = recorded.length === 0 ? [randomBytes(300)] : this.#dice.pick(recorded);
    const { replicationPort: port } = this.#target();
    const closed = await new Promise<boolean>((resolve) => {
      const socket = connectPlain(port, '127.0.0.1');
      const timer = setTimeout(() => {
        socket.destroy();
        resolve(false);
      }, ATTACK_MS);
      socket.on('error', () => undefined);
      socket.on('data', () => undefined);
      socket.on('connect', () => {
        socket.write(Buffer.concat(said));
        // Some recordings are the beginning of a handshake alone, for which a node waits longer than we do.
        setTimeout(() => socket.end(), 500).unref();
      });
      socket.on('close', () => {
        clearTimeout(timer);
        resolve(true);
      });
    });
    if (!closed) this.#fail('a conversation that was played again was not ended');
  }

  /** One byte of a link is changed on its way: the link drops, and comes back. */
  async alter(): Promise<void> {
    const middle = this.#dice.pick(this.#middles);
    const before = middle.altered;
    middle.alter(this.#dice.below(2000), 1 << this.#dice.below(8), this.#dice.chance(0.7));
    await this.#until('a byte is altered', async () => middle.altered > before);
    await sleep(50);
    for (const node of [this.#relay, this.#edge] as ClusterNode[]) {
      await this.#until(`${node.name} follows again`, async () => {
        return (await (this.#cluster as Cluster).status(node)).upstream?.state === 'following';
      });
    }
  }

  /** A token that nobody made, at the door for machines without a certificate. */
  async guess(): Promise<void> {
    const keys = newKeys();
    const token = randomBytes(8).toString('hex');
    const body = {
      kind: 'join',
      token,
      role: 'edge',
      name: 'guest',
      dns: [],
      ip: [],
      publicKey: publicKeyText(keys),
    } as const;
    const request = encodeRequest(body, newKeys('ed25519').privateKey, keys.privateKey);
    const options = { ALPNProtocols: ['tokaido-join/1'] };
    const { received } = await this.#exchange(options, Buffer.concat([request, Buffer.from('\n')]), false);
    if (received.includes('certificatePem')) this.#fail('a guessed token was given a certificate');
  }

  async attack(): Promise<void> {
    const kind = this.#dice.pick(['stranger', 'stranger', 'oldTls', 'replay', 'alter', 'guess'] as const);
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    await this[kind]();
  }

  /** Every node has what was written, and the honest ones alone follow. */
  async verdict(): Promise<void> {
    this.#writing = false;
    await this.#writer;
    const cluster = this.#cluster as Cluster;
    const [root, relay, edge] = [this.#root, this.#relay, this.#edge] as [ClusterNode, ClusterNode, ClusterNode];
    const { position } = await cluster.status(root);
    for (const node of [relay, edge]) {
      await this.#until(`${node.name} has everything`, async () => {
        return (await cluster.status(node)).position[0]?.sequence === position[0]?.sequence;
      });
      let wrong = 0;
      for (const [key, value] of this.#written) {
        const response = await fetch(`http://127.0.0.1:${node.clientPort}/${key}`);
        if ((await response.text()) !== value) wrong++;
      }
      if (wrong > 0)
        this.#fail(`${wrong} of ${this.#written.size} records are not at ${node.name} as they were written`);
    }
    for (const [node, follower] of [
      [root, 'relay'],
      [relay, 'edge'],
    ] as const) {
      const names = (await cluster.status(node)).followers.map(({ name }) => name);
      if (names.some((name) => name !== follower)) this.#fail(`${node.name} has the followers ${names.join(', ')}`);
    }
    for (const { name, starts } of [root, relay, edge]) if (starts !== 1) this.#fail(`${name} started ${starts} times`);
  }

  get written(): number {
    return this.#written.size;
  }

  async cleanUp(): Promise<void> {
    this.#writing = false;
    await this.#writer;
    for (const middle of this.#middles) await middle.close();
    await this.#cluster?.close();
  }
}

export const attacks: Torture = {
  name: 'attacks',
  about: 'strangers, replayed and altered bytes, guessed tokens against a root, a relay and an edge: nobody gets in.',
  run: async ({ seconds, seed, report, signal }: TortureOptions): Promise<TortureResult> => {
    // Its choices come from the seed; keys and certificates do not.
    const attacking = new Attacks(new Dice(seed), report);
    let runs = 0;
    try {
      await attacking.setUp();
      const goesOn = clock({ seconds, signal });
      do {
        await attacking.attack();
        runs++;
        report.progress(`${runs} attacks, ${attacking.failed} failures`);
      } while (goesOn());
      await attacking.verdict();
      return { runs, failed: attacking.failed, ...attacking.counts, records: attacking.written };
    } finally {
      await attacking.cleanUp();
    }
  },
};
