/** Followers that may see a part, over links in memory: every byte that reaches them is looked at. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { sid } from '../../src/base/types.js';
import { originOf } from '../../src/log/position.js';
import { Scope, type ScopePart } from '../../src/replication/scope.js';
import { parseDatabase } from '../../src/store/database-spec.js';
import { RESERVED_DATABASE } from '../../src/store/reserved.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually } from '../support/local-runtime.js';
import { withUnpacked } from '../support/received.js';
import { TestCluster, type TestNode } from '../support/replication-pair.js';

const PUBLIC: ScopePart = { databases: ['open', 'later'], prefixes: [Buffer.from('jp/')] };
const databases = ['open', 'hidden', 'flags'].map((name) => parseDatabase(name));

describe('a follower that may see a part', () => {
  let cluster: TestCluster;
  let root: TestNode;
  let scopes: Record<string, Scope | undefined>;

  beforeEach(() => {
    cluster = new TestCluster();
    root = cluster.root('root', { databases });
    scopes = { edge: Scope.of([PUBLIC]), relay: Scope.of([PUBLIC]), all: Scope.WHOLE };
    cluster.serve(root, { scopeFor: ({ name }) => scopes[name] });
  });
  afterEach(async () => await cluster.close());

  const rootStore = (): LocalStore => root.store as LocalStore;
  const sequenceOf = (node: TestNode): number => originOf(node.store?.position() ?? [], sid(1))?.sequence ?? 0;
  const set = async (records: Record<string, string>): Promise<void> => {
    await rootStore().write((transaction) => {
      for (const [place, value] of Object.entries(records)) {
        const [database, key] = place.split(' ') as [string, string];
        transaction.set(database, Buffer.from(key), Buffer.from(value), 0);
      }
    }).committed;
  };
  const all = (node: TestNode): string[] => {
    return (node.store?.databases() ?? []).flatMap(({ name }) => {
      const keys = node.store?.keys(name, Buffer.alloc(0), undefined, 1000) ?? [];
      return keys.map((key) => `${name} ${key}=${node.store?.get(name, key)?.value}`);
    });
  };
  const level = async (node: TestNode): Promise<void> => {
    await eventually('it is as far as the root', () => sequenceOf(node) === sequenceOf(root));
  };
  /** What must never arrive: names, keys and values outside of the scope. */
  const leaks = (node: TestNode): string[] => {
    const bytes = withUnpacked(Buffer.concat(node.received)).toString('latin1');
    return ['hidden', 'secret', 'us/', 'SECRET', 'public.salaries'].filter((word) => bytes.includes(word));
  };
  const BOTH = { 'open jp/a': '1', 'open us/a': 'SECRET', 'hidden jp/secret': 'SECRET' };

  it('gets a snapshot and the log of that part, and not a byte of the rest', async () => {
    await set(BOTH);
    const feed = { feed: 'postgres copied public.salaries hidden {id}', position: 7n };
    await rootStore().mark(feed).committed;
    const edge = cluster.node('edge', undefined);
    cluster.follow(edge, root);
    await eventually('it is seeded', () => edge.store !== undefined);
    await set({ ...BOTH, 'open jp/b': '2', 'open us/b': 'SECRET' });
    await set({ 'hidden x': 'SECRET' });
    await rootStore().mark({ ...feed, position: 8n }).committed;
    await rootStore().writeReserved((t) => t.set(RESERVED_DATABASE, Buffer.from('crl/x'), Buffer.from('list'), 0))
      .committed;
    await rootStore().writeReserved((t) =>
      t.set(RESERVED_DATABASE, Buffer.from('token/secret'), Buffer.from('SECRET'), 0),
    ).committed;
    await rootStore().write((t) => t.clear('hidden')).committed;
    await rootStore().write((t) => t.clear('open', Buffer.from('us/'))).committed;
    await rootStore().write((t) => t.remove('open', Buffer.from('jp/a'))).committed;
    await level(edge);
    assert.deepEqual(all(edge), ['open jp/b=2']);
    const lists = [...(edge.store?.reserved('crl/') ?? [])].map(({ record }) => record.value.toString());
    assert.deepEqual(lists, ['list'], 'revocation lists are for everybody');
    assert.deepEqual(edge.store?.position(), rootStore().position(), 'positions have no gaps (invariant 2)');
    await eventually('heartbeats came', () => edge.heartbeats.lagMs(Date.now()) !== undefined);
    assert.deepEqual(leaks(edge), []);
  });

  it('can prove that it equals its upstream in whole databases and in parts, and is told nothing of others', async () => {
    scopes.edge = Scope.of([PUBLIC, { databases: ['flags'], prefixes: [] }]);
    await set({ ...BOTH, 'flags dark': 'on' });
    const edge = cluster.node('edge', undefined);
    cluster.follow(edge, root);
    await eventually('it is seeded', () => edge.store !== undefined);
    await set({ 'flags light': 'off', 'hidden y': 'SECRET' });
    await level(edge);
    await eventually('proofs are compared', () => edge.equality.last?.equal === 3);
    const { differences, leftOut } = edge.equality.last ?? {};
    assert.deepEqual([differences, leftOut], [[], []]);
    assert.deepEqual(leaks(edge), []);
  });

  it('has its part cleared by a clear of more', async () => {
    await set(BOTH);
    const edge = cluster.node('edge', undefined);
    cluster.follow(edge, root);
    await eventually('it is seeded', () => all(edge).length === 1);
    await rootStore().write((t) => t.clear('open')).committed;
    await set({ 'open jp/after': '3', 'open us/after': 'SECRET' });
    await level(edge);
    assert.deepEqual(all(edge), ['open jp/after=3']);
    // A node that is seeded now learns of the clear what lies inside.
    const late = cluster.node('edge', undefined);
    cluster.follow(late, root);
    await eventually('it is seeded', () => all(late).length === 1);
    assert.deepEqual([leaks(edge), leaks(late)], [[], []]);
  });

  it('goes on from its position through a relay of the same part, and gets no more from one that has more', async () => {
    await set(BOTH);
    const relay = cluster.node('relay', undefined);
    cluster.follow(relay, root);
    await eventually('the relay is seeded', () => relay.store !== undefined);
    // The relay has no policy of its own: it can hand on no more than it has.
    cluster.serve(relay);
    const whole = cluster.node('all', undefined);
    cluster.follow(whole, root);
    await eventually('the other relay is seeded', () => whole.store !== undefined);
    cluster.serve(whole, { scopeFor: () => Scope.of([PUBLIC]) });
    const edge = cluster.node('edge', undefined);
    const first = cluster.follow(edge, relay);
    await eventually('the edge is seeded', () => edge.store !== undefined);
    await set({ 'open jp/b': '2', 'hidden y': 'SECRET' });
    await level(edge);
    first.up.destroy('cut');
    cluster.follow(edge, whole);
    await set({ 'open jp/c': '3', 'open us/c': 'SECRET' });
    await level(edge);
    assert.deepEqual(all(edge), ['open jp/a=1', 'open jp/b=2', 'open jp/c=3']);
    assert.deepEqual(edge.loaded, [1], 'one snapshot, for the first time');
    assert.deepEqual(leaks(edge), []);
    assert.deepEqual(leaks(relay), []);
  });

  it('gets no more through a relay than the relay has, whatever the policy of the relay says', async () => {
    await set(BOTH);
    const relay = cluster.node('relay', undefined);
    cluster.follow(relay, root);
    await eventually('the relay is seeded', () => relay.store !== undefined);
    cluster.serve(relay, { scopeFor: () => Scope.of([{ databases: ['hidden', 'open'], prefixes: [] }]) });
    const edge = cluster.node('edge', undefined);
    cluster.follow(edge, relay);
    await eventually('the edge is seeded', () => edge.store !== undefined);
    assert.deepEqual(all(edge), ['open jp/a=1']);
    relay.server?.close();
    cluster.serve(relay, { scopeFor: () => Scope.of([{ databases: ['hidden'], prefixes: [] }]) });
    const other = cluster.node('other', undefined);
    cluster.follow(other, relay);
    await eventually('it is refused', () => other.ends.length === 1);
    assert.match(other.ends[0] ?? '', /SCOPE.*follow nothing that is here/);
  });

  it('is refused when no rule is for it, and learns nothing', async () => {
    await set(BOTH);
    const stranger = cluster.node('stranger', undefined);
    cluster.follow(stranger, root);
    await eventually('it is refused', () => stranger.ends.length === 1);
    assert.match(
      stranger.ends[0] ?? '',
      /refused by the upstream \(SCOPE\): the policy of this node lets stranger follow nothing/,
    );
    assert.deepEqual(leaks(stranger), []);
    assert.ok(!Buffer.concat(stranger.received).includes('open'));
  });

  it('loses its link when the policy changes, and gets the new part by a snapshot, the old one gone', async () => {
    await set(BOTH);
    const edge = cluster.node('edge', undefined);
    cluster.follow(edge, root);
    await eventually('it is seeded', () => all(edge).length === 1);
    root.server?.recheckScopes();
    assert.equal(edge.ends.length, 0, 'nothing changed');
    scopes.edge = Scope.of([{ databases: ['open'], prefixes: [Buffer.from('us/')] }]);
    root.server?.recheckScopes();
    await eventually('the link is ended', () => edge.ends.length === 1);
    assert.match(edge.ends[0] ?? '', /SCOPE.*something else now/);
    cluster.follow(edge, root);
    await eventually('it has the new part', () => all(edge).join() === 'open us/a=SECRET');
    scopes.edge = undefined;
    root.server?.recheckScopes();
    await eventually('the link is ended', () => edge.ends.length === 2);
    cluster.follow(edge, root);
    await eventually('it is refused', () => edge.ends.length === 3);
  });

  it('is filled from the log on the disk as from memory, and whole followers get the very same frames as before', async () => {
    await cluster.close();
    cluster = new TestCluster();
    root = cluster.root('root', { databases });
    // A ring that holds nothing: all comes from the log.
    cluster.serve(root, { ringBytes: 1, scopeFor: ({ name }) => scopes[name] });
    const edge = cluster.node('edge', undefined);
    const link = cluster.follow(edge, root);
    const whole = cluster.node('all', undefined);
    cluster.follow(whole, root);
    await eventually('both are seeded', () => edge.store !== undefined && whole.store !== undefined);
    link.down.stalled = true;
    for (let i = 0; i < 30; i++)
      await set({ [`open jp/${i}`]: 'x'.repeat(50_000), 'hidden z': 'SECRET'.repeat(10_000) });
    link.down.stalled = false;
    link.down.deliver();
    await level(edge);
    await level(whole);
    assert.equal(all(edge).length, 30);
    assert.equal(all(whole).length, 31);
    assert.deepEqual(leaks(edge), []);
  });

  it('cannot give a root back what the root lost: its transactions may be less than they were', async () => {
    await set(BOTH);
    const edge = cluster.node('edge', undefined);
    const first = cluster.follow(edge, root);
    await eventually('it is seeded', () => edge.store !== undefined);
    await set({ 'open jp/b': '2', 'hidden b': 'SECRET' });
    await level(edge);
    first.up.destroy('cut');
    // The same origin, without its last transaction.
    root.server?.close();
    const lost = cluster.root('root', { databases });
    await lost.store?.write((t) => t.set('open', Buffer.from('jp/a'), Buffer.from('1'), 0)).committed;
    let accounted = 0;
    cluster.serve(lost, {
      scopeFor: () => Scope.of([PUBLIC]),
      isRecovering: () => true,
      onAccountedFor: () => accounted++,
    });
    cluster.follow(edge, lost);
    await eventually('it is refused', () => edge.ends.some((reason) => /takes back what it lost/.test(reason)));
    assert.equal(originOf(lost.store?.position() ?? [], sid(1))?.sequence, 1);
    assert.equal(accounted, 0);
  });
});
