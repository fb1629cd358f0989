/** A tree that heals by itself: whom a follower tries, when it leaves an upstream that works, and when it returns. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { inOrder, UpstreamChoice } from '../../src/replication/following/upstream-choice.js';
import { Scope } from '../../src/replication/scope.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually } from '../support/local-runtime.js';
import { framesIn } from '../support/received.js';
import { contents, put, TestCluster, type TestNode } from '../support/replication-pair.js';

const at = (host: string, more: object = {}) => ({ host, port: 1, name: host, ...more });
const BACK_OFF = { minMs: 10, maxMs: 1000 };
/** Nothing happens by itself. */
const CALM = { staleMs: 60_000, returnMs: 60_000, silenceMs: 60_000 };

describe('the choice among upstreams', () => {
  it('prefers the own region, then the lower priority, then the order', () => {
    const listed = [
      at('far', { region: 'west', priority: 0 }),
      at('near-2', { region: 'east', priority: 5 }),
      at('near-1', { region: 'east', priority: 1 }),
      at('anywhere', { priority: 1 }),
    ];
    const names = (region: string | undefined): string[] => inOrder(listed, region).map(({ host }) => host);
    assert.deepEqual(names('east'), ['near-1', 'anywhere', 'near-2', 'far']);
    assert.deepEqual(names(undefined), ['far', 'near-1', 'anywhere', 'near-2']);
  });

  it('tries the others in order after a loss, the lost one last, and waits longer from round to round', () => {
    const choice = new UpstreamChoice([at('a'), at('b'), at('c')], BACK_OFF, 1000);
    const next = (): string => choice.next(() => 1).upstream.host;
    assert.deepEqual([next(), next()], ['a', 'b']);
    choice.succeeded();
    choice.lost(0);
    assert.deepEqual([next(), next(), next()], ['a', 'c', 'b']);
    const waits = Array.from({ length: 30 }, () => choice.next(() => 1).delayMs);
    assert.equal(Math.max(...waits), 1000);
    assert.deepEqual(
      [...waits].sort((one, other) => one - other),
      waits,
    );
  });

  it('waits longer each time that it cannot store what comes, whoever sends it, until it can', () => {
    const choice = new UpstreamChoice([at('a'), at('b')], BACK_OFF, 1000);
    const wait = (how: { readonly failedHere: boolean }): number => {
      choice.next(() => 1);
      choice.succeeded();
      choice.lost(0, how);
      return choice.next(() => 1).delayMs;
    };
    const full = { failedHere: true };
    assert.deepEqual(
      Array.from({ length: 9 }, () => wait(full)),
      [20, 40, 80, 160, 320, 640, 1000, 1000, 1000],
    );
    assert.equal(wait({ failedHere: false }), 10);
    assert.equal(wait(full), 20);
  });

  it('tries the lost one first when there is something to go on with there, and then the others', () => {
    const choice = new UpstreamChoice([at('a'), at('b'), at('c')], BACK_OFF, 1000);
    const next = (): string => choice.next(() => 1).upstream.host;
    assert.deepEqual([next(), next()], ['a', 'b']);
    choice.succeeded();
    choice.lost(0);
    choice.again();
    assert.equal(next(), 'b');
    choice.again();
    assert.deepEqual([next(), next(), next(), next()], ['b', 'a', 'c', 'b']);
  });

  it('returns to a better one that was good for a while, and each time later when that ends badly soon', () => {
    const [a, b] = [at('a'), at('b')];
    const choice = new UpstreamChoice([a, b], BACK_OFF, 1000);
    choice.next(() => 0);
    choice.next(() => 0);
    choice.succeeded();
    assert.deepEqual(choice.better(), [a]);
    assert.equal(choice.saw(a, true, 0), false);
    assert.equal(choice.saw(a, false, 900), false);
    assert.equal(choice.saw(a, true, 1000), false);
    assert.equal(choice.saw(a, true, 1999), false);
    assert.equal(choice.saw(a, true, 2000), true);
    choice.moveTo(a, 2000);
    assert.equal(choice.next(() => 0).upstream, a);
    choice.succeeded();
    assert.deepEqual(choice.better(), []);
    // It breaks at once: the next time it has to be good for twice as long.
    choice.lost(2500);
    assert.equal(choice.next(() => 0).upstream, b);
    choice.succeeded();
    assert.deepEqual(
      [choice.saw(a, true, 3000), choice.saw(a, true, 4999), choice.saw(a, true, 5000)],
      [false, false, true],
    );
  });
});

describe('a follower among several upstreams', () => {
  let cluster: TestCluster;
  let root: TestNode;
  let relays: readonly TestNode[];
  let cut: Set<string>;
  /** Those that take no new links now. */
  let refusing: Set<string>;
  /** How many links were opened to whom. */
  let opened: Map<string, number>;

  beforeEach(() => {
    cluster = new TestCluster();
    root = cluster.root();
    cluster.serve(root);
    cut = new Set();
    refusing = new Set();
    opened = new Map();
    relays = ['one', 'two'].map((name) => {
      const relay = cluster.node(name, cluster.openStore(undefined));
      cluster.serve(relay);
      return relay;
    });
  });
  afterEach(async () => await cluster.close());

  const storeOf = (node: TestNode | undefined): LocalStore => node?.store as LocalStore;
  const [ONE, TWO] = [0, 1];

  const linksTo = (name: string): number => opened.get(name) ?? 0;
  const followersOf = (name: string): number => {
    return relays.find((relay) => relay.name === name)?.server?.followers().length ?? 0;
  };

  function edge(
    times: { staleMs: number; returnMs: number; silenceMs?: number; readCertificate?: () => void },
    upstreams = relays,
    discovered: readonly (readonly TestNode[])[] = [],
  ) {
    const node = cluster.node('edge', cluster.openStore(undefined));
    const keeper = cluster.keep(node, upstreams, {
      ...times,
      discovered,
      isReachable: (name) => !cut.has(name),
      mayLink: (name) => {
        if (refusing.has(name)) return false;
        opened.set(name, linksTo(name) + 1);
        return true;
      },
    });
    return {
      node,
      keeper,
      isWith: (name: string) => keeper.status().name === name && keeper.status().state === 'following',
    };
  }

  it('leaves one whose data is old for one that has newer, with its position and without a snapshot', async () => {
    const [link] = relays.map((relay) => cluster.follow(relay, root));
    const { node, isWith } = edge({ staleMs: 300, returnMs: 60_000 });
    await eventually('it follows the first', () => isWith('one'));
    await put(storeOf(root), { a: '1' });
    await eventually('a arrived', () => contents(node.store).a === '1');
    // The relay goes on saying that it is there, but hears nothing any more itself.
    link?.up.destroy('cut off from the root');
    await put(storeOf(root), { b: '2' });
    await eventually('it follows the second', () => isWith('two'));
    await eventually('b arrived', () => contents(node.store).b === '2');
    assert.deepEqual(node.loaded, []);
    assert.equal(contents(storeOf(relays[ONE])).b, undefined);
  });

  it('stays when nobody has newer data: the root is gone', async () => {
    const links = relays.map((relay) => cluster.follow(relay, root));
    const { node, keeper, isWith } = edge({ staleMs: 200, returnMs: 60_000 });
    await eventually('it follows the first', () => isWith('one'));
    for (const { up } of links) up.destroy('the root is gone');
    const gone = Date.now();
    await eventually('its data is old', () => Date.now() - Math.max(gone, node.heartbeats.newestMs()) > 600);
    assert.ok(isWith('one'), JSON.stringify(keeper.status()));
    assert.equal(keeper.status().lastError, undefined);
  });

  it('takes the next when one is lost, and returns to the better one when it has been there for a while', async () => {
    for (const relay of relays) cluster.follow(relay, root);
    const { node, isWith } = edge({ staleMs: 60_000, returnMs: 400 });
    await eventually('it follows the first', () => isWith('one'));
    cut.add('one');
    await eventually('it follows the second', () => isWith('two'));
    await put(storeOf(root), { a: '1' });
    await eventually('a arrived', () => contents(node.store).a === '1');
    cut.delete('one');
    await eventually('it is back', () => isWith('one'));
    await put(storeOf(root), { b: '2' });
    await eventually('b arrived', () => contents(node.store).b === '2');
    assert.deepEqual(node.loaded, []);
  });

  it('goes on under a discovered one when its own is gone, never for another part of the data, and returns', async () => {
    const narrow = cluster.node('narrow', cluster.openStore(undefined));
    cluster.serve(narrow, { scopeFor: () => Scope.of([{ databases: ['default'], prefixes: [Buffer.from('x')] }]) });
    for (const relay of [...relays, narrow]) cluster.follow(relay, root);
    const [one, two] = relays as [TestNode, TestNode];
    const { node, keeper, isWith } = edge({ staleMs: 60_000, returnMs: 400 }, [one], [[narrow], [two]]);
    await eventually('it follows its own', () => isWith('one'));
    await put(storeOf(root), { a: '1' });
    await eventually('a arrived', () => contents(node.store).a === '1');
    assert.equal(keeper.status().isDiscovered, false);
    cut.add('one');
    await eventually('it follows the one that hands on the same', () => isWith('two'));
    assert.equal(keeper.status().isDiscovered, true);
    assert.ok(linksTo('narrow') > 0, 'the other was tried');
    await put(storeOf(root), { b: '2' });
    await eventually('b arrived', () => contents(node.store).b === '2');
    assert.equal(contents(node.store).a, '1');
    cut.delete('one');
    await eventually('it is back', () => isWith('one'));
    assert.equal(keeper.status().isDiscovered, false);
    assert.deepEqual(node.loaded, []);
  });

  it('puts a new link in the place of the old one under load, and misses nothing', async () => {
    for (const relay of relays) cluster.follow(relay, root);
    const { node, keeper, isWith } = edge({ staleMs: 60_000, returnMs: 60_000 });
    await eventually('it follows the first', () => isWith('one'));
    let i = 0;
    for (; i < 200; i++) {
      await put(storeOf(root), { [`k${i}`]: String(i) });
      // Two at once, as when both ends have new certificates.
      if (i % 20 === 0) for (let asked = 0; asked < 2; asked++) keeper.relink();
      assert.ok(isWith('one'), JSON.stringify(keeper.status()));
    }
    await eventually('everything arrived', () => contents(node.store)[`k${i - 1}`] === String(i - 1));
    assert.equal(Object.keys(contents(node.store)).length, i);
    assert.deepEqual(node.loaded, []);
    await eventually('one link is left', () => followersOf('one') === 1);
    assert.ok(linksTo('one') > 10, `${linksTo('one')} links`);
  });

  it('takes the snapshot of another scope over a new link: that is what the new certificate is for', async () => {
    const narrow = Scope.of([{ databases: ['default'], prefixes: [Buffer.from('x')] }]);
    let scope = narrow;
    const relay = cluster.node('relay', cluster.openStore(undefined));
    cluster.serve(relay, { scopeFor: () => scope });
    cluster.follow(relay, root);
    await put(storeOf(root), { x1: '1', y1: '1' });
    await eventually('the relay has it', () => contents(relay.store).y1 === '1');
    const { node, keeper } = edge(CALM, [relay]);
    await eventually('it has the narrow part', () => contents(node.store).x1 === '1');
    assert.deepEqual(Object.keys(contents(node.store)), ['x1']);
    for (const [next, keys] of [
      [Scope.WHOLE, ['x1', 'y1']],
      [narrow, ['x1']],
    ] as const) {
      scope = next;
      keeper.relink();
      await eventually('it has the other part', () => Object.keys(contents(node.store)).join() === keys.join());
      await eventually('it follows over one link', () => {
        return keeper.status().state === 'following' && relay.server?.followers().length === 1;
      });
    }
    assert.equal(node.loaded.length, 3);
    await put(storeOf(root), { x2: '2' });
    await eventually('x2 arrived', () => contents(node.store).x2 === '2');
  });

  it('opens a new link when the upstream asks for it, and keeps the old one while none can be had', async () => {
    cluster.follow(relays[ONE] as TestNode, root);
    const { node, keeper, isWith } = edge({ staleMs: 60_000, returnMs: 60_000 });
    await eventually('it follows the first', () => isWith('one'));
    const before = linksTo('one');
    relays[ONE]?.server?.relink();
    await eventually('there is a new link', () => linksTo('one') === before + 1 && followersOf('one') === 1);
    refusing.add('one');
    keeper.relink();
    await put(storeOf(root), { a: '1' });
    await eventually('a arrived', () => contents(node.store).a === '1');
    assert.equal(keeper.status().lastError, undefined);
    assert.equal(linksTo('one'), before + 1);
    refusing.delete('one');
    await eventually('it was tried again', () => linksTo('one') === before + 2 && isWith('one'));
  });

  it('tries again within a moment, with the certificate that is there by then: a retired CA does not wait', async () => {
    cluster.follow(relays[ONE] as TestNode, root);
    let read = 0;
    const { isWith } = edge({ ...CALM, readCertificate: () => void read++ });
    await eventually('it follows the first', () => isWith('one'));
    const before = linksTo('one');
    refusing.add('one');
    relays[ONE]?.server?.relink();
    await eventually('it was asked', () => read === 1);
    refusing.delete('one');
    const startMs = performance.now();
    await eventually('there is a new link', () => linksTo('one') === before + 1 && followersOf('one') === 1);
    assert.ok(performance.now() - startMs < 500, `${performance.now() - startMs} ms`);
  });

  it('is asked for a new link as soon as it is welcome, where the certificate changed while it greeted', async () => {
    const relay = relays[ONE] as TestNode;
    const node = cluster.node('edge', cluster.openStore(undefined));
    const { up } = cluster.follow(node, relay);
    up.stalled = true;
    relay.server?.relink();
    await new Promise((resolve) => setTimeout(resolve, 30));
    assert.deepEqual(node.received, []);
    up.stalled = false;
    up.deliver();
    await eventually('it is welcome', () => node.received.length > 1);
    const [first, second] = framesIn(Buffer.concat(node.received));
    assert.deepEqual([first?.type, second?.type], ['welcome', 'relink']);
  });

  it('ends a loop that comes about, with a message that draws it', async () => {
    // Both lost the root and found each other at the same moment: neither knew that the other did.
    cluster.follow(relays[ONE] as TestNode, relays[TWO] as TestNode);
    cluster.follow(relays[TWO] as TestNode, relays[ONE] as TestNode);
    await eventually('somebody noticed', () => relays.some(({ ends }) => ends.length > 0));
    assert.match(relays.flatMap(({ ends }) => ends).join('\n'), /a loop: (one -> two -> one|two -> one -> two)/);
  });
});
