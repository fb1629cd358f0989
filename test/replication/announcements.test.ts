/** Announcements of nodes: what a root records of them, in whose name, how often, and for how long. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TokaidoError } from '../../src/base/errors.js';
import { silentLogger } from '../../src/base/logger.js';
import { sid } from '../../src/base/types.js';
import {
  Announcements,
  type AnnouncementsOptions,
  type Announcer,
  LEAST_CHANGE_MS,
  LIFE_MS,
  MAX_ANNOUNCED,
  MAX_OFF_MS,
  type Seals,
} from '../../src/node/announcements.js';
import {
  type Announced,
  announcedIn,
  announcedKey,
  encodeAnnounced,
} from '../../src/replication/following/discovery.js';
import type { UpstreamFollower } from '../../src/replication/following/upstream-follower.js';
import { NODE_KEYS, RESERVED_DATABASE } from '../../src/store/reserved.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { TestCluster } from '../support/replication-pair.js';

/** Signatures that anybody can read: what is tested is what the root makes of them. */
function sealsOf(signer: Announcer): Seals {
  return {
    seal: async (text) => await Promise.resolve(Buffer.from(JSON.stringify({ text, signer }))),
    open: (statement) => JSON.parse(statement.toString()) as ReturnType<Seals['open']>,
  };
}

describe('what a root records of nodes that announce themselves', () => {
  let cluster: TestCluster;
  let store: LocalStore;
  let nowMs: number;
  let refusal: TokaidoError | undefined;
  let root: Announcements;
  const looks: (() => void)[] = [];

  const runtime = localRuntime({
    nowMs: () => nowMs,
    nowNs: () => BigInt(nowMs) * 1_000_000n,
    monotonicMs: () => nowMs,
    every: (_, fn) => {
      looks.push(fn);
      return { cancel: () => looks.splice(looks.indexOf(fn), 1) };
    },
  });

  function announcements(more: Partial<AnnouncementsOptions>): Announcements {
    return new Announcements({
      own: undefined,
      name: 'root',
      seals: sealsOf({ name: 'root', role: 'root' }),
      store: () => store,
      writeRefusal: () => refusal,
      ask: async (statement) => await root.answer(statement, 'a test'),
      runtime,
      log: silentLogger,
      ...more,
    });
  }

  beforeEach(() => {
    nowMs = 1_800_000_000_000;
    refusal = undefined;
    looks.length = 0;
    cluster = new TestCluster(runtime);
    store = cluster.openStore(sid(1));
    root = announcements({});
  });
  afterEach(async () => {
    await store.close();
    await cluster.close();
  });

  const ADDRESS = { host: 'relay-1.example', port: 1979, priority: 0 };

  async function announce(
    signer: Announcer,
    announced: Partial<Announced> = {},
    name: unknown = signer.name,
  ): Promise<string> {
    const text = JSON.stringify({
      name,
      announced: encodeAnnounced({ ...ADDRESS, atMs: nowMs, ...announced }).toString(),
    });
    const answer = await root.answer(await sealsOf(signer).seal(text), 'a test');
    const { error } = JSON.parse(answer.toString()) as { error?: { code: string; message: string } };
    return error === undefined ? 'ok' : `${error.code}: ${error.message}`;
  }

  const relay = { name: 'relay-1', role: 'relay' };
  const recorded = () => announcedIn(store.reserved(NODE_KEYS));
  const expiresMs = () => store.get(RESERVED_DATABASE, announcedKey('relay-1'))?.xtMs;

  it('is what the node says, until it has not said so for long', async () => {
    assert.equal(await announce(relay, { region: 'eu' }), 'ok');
    assert.deepEqual(recorded(), [{ ...ADDRESS, region: 'eu', name: 'relay-1', atMs: nowMs }]);
    nowMs += LIFE_MS + 1;
    assert.deepEqual(recorded(), []);
  });

  it('is written only when something changed, or half of its life is over', async () => {
    await announce(relay);
    const before = store.log.next;
    for (let hour = 0; hour < 24; hour++) {
      nowMs += 3_600_000;
      assert.equal(await announce(relay), 'ok');
    }
    assert.equal(store.log.next, before);
    nowMs += LIFE_MS / 2;
    assert.equal(await announce(relay), 'ok');
    assert.equal(store.log.next, before + 1);
    assert.equal(expiresMs(), nowMs + LIFE_MS);
    assert.equal(await announce(relay, { port: 1980 }), `OVERLOADED: relay-1 announced something else a moment ago`);
    nowMs += LEAST_CHANGE_MS;
    assert.equal(await announce(relay, { port: 1980 }), 'ok');
    assert.equal(recorded()[0]?.port, 1980);
  });

  it('is in the name of who signed it, who must be one that others may follow', async () => {
    assert.match(await announce(relay, {}, 'relay-2'), /IDENTITY: relay-1 announces an address for relay-2/);
    assert.match(await announce(relay, {}, null), /IDENTITY/);
    for (const role of ['edge', 'client', 'ca'])
      assert.match(await announce({ name: 'relay-1', role }), new RegExp(`role ${role}: nobody follows it`));
    assert.match(await announce(relay, { host: 'a b' }), /MALFORMED: what relay-1 announces is not an address/);
    assert.deepEqual(recorded(), []);
  });

  it('is never an older statement than the one that is known, nor one from another time', async () => {
    await announce(relay, { port: 1980 });
    nowMs += LEAST_CHANGE_MS;
    assert.match(await announce(relay, { port: 1, atMs: nowMs - LEAST_CHANGE_MS - 1 }), /this statement is older/);
    assert.match(await announce(relay, { atMs: nowMs - MAX_OFF_MS - 1 }), /600 s behind the clock/);
    assert.match(await announce(relay, { atMs: nowMs + MAX_OFF_MS + 1 }), /ahead of the clock of the root/);
    assert.equal(recorded()[0]?.port, 1980);
  });

  it('is bounded in number', async () => {
    await store.writeReserved((transaction) => {
      for (let i = 0; i < MAX_ANNOUNCED; i++)
        transaction.set(RESERVED_DATABASE, announcedKey(`n-${i}`), encodeAnnounced({ ...ADDRESS, atMs: 1 }), 0);
    }).committed;
    assert.match(await announce(relay), /OVERLOADED: there are 512 nodes/);
    nowMs += LEAST_CHANGE_MS;
    assert.equal(await announce({ name: 'n-1', role: 'relay' }), 'ok');
  });

  it('is nothing while the root takes no writes', async () => {
    refusal = new TokaidoError('READ_ONLY', 'this root stands by');
    assert.equal(await announce(relay), 'READ_ONLY: this root stands by');
    assert.deepEqual(recorded(), []);
  });

  it('is for another root to record where this one stands by, and two that stand by ask each other once', async () => {
    const standsBy = new TokaidoError('READ_ONLY', 'this root stands by');
    const roots = new Map<string, Announcements>();
    let asked = 0;
    const linkTo = (name: string, from: string) => ({
      status: () => ({ name }) as ReturnType<UpstreamFollower['status']>,
      ask: async (statement: Buffer) => {
        asked++;
        const other = roots.get(name);
        if (other === undefined) throw new TokaidoError('NOT_READY', 'no link');
        return await other.answer(statement, from);
      },
    });
    const standby = (name: string, others: readonly string[]) => {
      return announcements({ writeRefusal: () => standsBy, peers: () => others.map((other) => linkTo(other, name)) });
    };
    roots.set('root-2', standby('root-2', ['root-3', 'root']));
    roots.set('root-3', standby('root-3', ['root-2', 'root']));
    const text = JSON.stringify({
      name: 'relay-1',
      announced: encodeAnnounced({ ...ADDRESS, atMs: nowMs }).toString(),
    });
    const tell = async () =>
      (await roots.get('root-2')?.answer(await sealsOf(relay).seal(text), 'relay-1'))?.toString();
    assert.match((await tell()) ?? '', /READ_ONLY/);
    assert.deepEqual([asked, recorded()], [2, []]);
    roots.set('root', root);
    assert.equal(await tell(), '{}');
    assert.equal(recorded()[0]?.name, 'relay-1');
  });

  it('a node says it as soon as somebody answers, again after a refusal, and then seldom', async () => {
    let asked = 0;
    let isLinked = false;
    const own = announcements({
      own: ADDRESS,
      name: 'relay-1',
      seals: sealsOf(relay),
      ask: async (statement) => {
        if (!isLinked) throw new TokaidoError('NOT_READY', 'no link yet');
        asked++;
        return await root.answer(statement, 'a test');
      },
    });
    const look = (): void => {
      for (const fn of looks) fn();
    };
    const address = 'relay-1.example:1979';
    look();
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(own.facts(), { address, isKnown: false, lastError: undefined });
    [isLinked, refusal] = [true, new TokaidoError('READ_ONLY', 'this root stands by')];
    look();
    await eventually('it was refused', () => own.facts()?.lastError !== undefined);
    assert.deepEqual(own.facts(), { address, isKnown: false, lastError: 'this root stands by' });
    look();
    assert.equal(asked, 1);
    refusal = undefined;
    nowMs += 30_000;
    look();
    await eventually('it is recorded', () => own.facts()?.isKnown === true);
    look();
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(asked, 2);
    assert.deepEqual(own.facts(), { address, isKnown: true, lastError: undefined });
    assert.deepEqual(recorded(), [{ ...ADDRESS, name: 'relay-1', atMs: nowMs }]);
    own.close();
    assert.equal(looks.length, 0);
  });
});
