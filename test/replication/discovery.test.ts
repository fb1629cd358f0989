/** Upstreams that no configuration names: what is recorded of them, who tries whom, and how the choice follows. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  type AnnouncedNode,
  announcedIn,
  announcedKey,
  discoveredFor,
  encodeAnnounced,
  parseAnnounced,
} from '../../src/replication/following/discovery.js';
import { type Tiers, type UpstreamAddress, UpstreamChoice } from '../../src/replication/following/upstream-choice.js';
import type { LiveEntry } from '../../src/store/types.js';
import { Dice } from '../support/random.js';

const node = (name: string, more: Partial<AnnouncedNode> = {}): AnnouncedNode => {
  return { name, host: `${name}.example`, port: 1979, priority: 0, atMs: 1, ...more };
};
const configured = (name: string): UpstreamAddress => ({ host: `${name}.example`, port: 1979, name });
const seeker = { name: 'edge-1', region: undefined, configured: [], below: new Set<string>() };
const namesOf = (tiers: Tiers): (string | undefined)[][] => tiers.map((tier) => tier.map(({ name }) => name));

describe('what is recorded of a node', () => {
  it('is what it said', () => {
    for (const announced of [node('a'), node('b', { region: 'eu', priority: 1000, host: '::1', port: 65_535 })]) {
      const { name: _, ...rest } = announced;
      assert.deepEqual(parseAnnounced(encodeAnnounced(announced).toString()), rest);
    }
  });

  it('is nothing when it is not an address within its limits', () => {
    const { name: _, ...good } = node('a');
    const wrong: readonly object[] = [
      { host: '' },
      { host: 'a b' },
      { host: '[::1]' },
      { host: '_tokaido._tcp.example.com' },
      { host: 'relay\u001b[2J' },
      { host: 'relay\u202e' },
      { host: 'x'.repeat(256) },
      { host: 7 },
      { port: 0 },
      { port: 65_536 },
      { port: 1.5 },
      { port: '1979' },
      { region: '' },
      { region: 'x'.repeat(65) },
      { region: 'jp\u001b]0;x\u0007' },
      { priority: -1 },
      { priority: 1001 },
      { priority: undefined },
      { atMs: -1 },
      { atMs: Number.NaN },
    ];
    for (const change of wrong)
      assert.equal(parseAnnounced(JSON.stringify({ ...good, ...change })), undefined, JSON.stringify(change));
    for (const text of ['', 'null', '[]', '7', '{', '"x"']) assert.equal(parseAnnounced(text), undefined, text);
  });

  it('is passed over when it does not parse', () => {
    const entry = (name: string, value: Buffer): LiveEntry => {
      return { key: announcedKey(name), record: { value } as LiveEntry['record'] };
    };
    const found = announcedIn([entry('a', encodeAnnounced(node('a'))), entry('b', Buffer.from('no'))]);
    assert.deepEqual(found, [node('a')]);
  });
});

describe('whom a node discovers', () => {
  it('is of its own region first, then of the lower priority; equally good ones are one tier', () => {
    const nodes = [
      node('west', { region: 'west' }),
      node('east-2', { region: 'east', priority: 5 }),
      node('east-1', { region: 'east' }),
      node('anywhere'),
    ];
    const tiers = namesOf(discoveredFor({ ...seeker, region: 'east' }, nodes));
    assert.deepEqual(
      tiers.map((tier) => tier.toSorted()),
      [['anywhere', 'east-1'], ['east-2'], ['west']],
    );
  });

  it('is neither itself, nor one below it, nor one that is configured', () => {
    const nodes = ['edge-1', 'below', 'named', 'unnamed', 'moved', 'other'].map((name) => node(name));
    const known = [
      configured('named'),
      { ...configured('unnamed'), name: undefined },
      { ...configured('moved'), host: 'old.example' },
    ];
    const tiers = discoveredFor({ ...seeker, configured: known, below: new Set(['below']) }, nodes);
    assert.deepEqual(namesOf(tiers).flat().toSorted(), ['moved', 'other']);
    for (const upstream of tiers.flat()) assert.equal(upstream.isDiscovered, true);
  });

  it('differs from follower to follower, so that those of a dead relay spread, and is the same at each look', () => {
    const nodes = Array.from({ length: 10 }, (_, i) => node(`relay-${i}`));
    const counts = new Map<string, number>();
    for (let i = 0; i < 300; i++) {
      const own = { ...seeker, name: `edge-${i}` };
      const [first] = discoveredFor(own, nodes).flat();
      assert.deepEqual(discoveredFor(own, nodes.toReversed()).flat()[0], first);
      counts.set(first?.name as string, (counts.get(first?.name as string) ?? 0) + 1);
    }
    // Even would be 30 each.
    assert.equal(counts.size, 10);
    assert.ok(Math.max(...counts.values()) <= 50, JSON.stringify([...counts]));
  });
});

describe('the choice when upstreams are discovered', () => {
  const BACK_OFF = { minMs: 10, maxMs: 1000 };
  const discovered = (name: string): UpstreamAddress => ({ ...configured(name), isDiscovered: true });
  const [a, b] = [configured('a'), configured('b')];

  it('tries every configured one first, the lost one last among them, and discovered ones behind', () => {
    const choice = new UpstreamChoice([a, b], BACK_OFF, 1000);
    const next = (): string | undefined => choice.next(() => 1).upstream.name;
    choice.discover([[discovered('x')], [discovered('y')]]);
    assert.equal(next(), 'a');
    choice.succeeded();
    choice.lost(0);
    assert.deepEqual([next(), next(), next(), next(), next()], ['b', 'a', 'x', 'y', 'a']);
  });

  it('returns to what is better, and does not move within a tier', () => {
    const choice = new UpstreamChoice([a], BACK_OFF, 1000);
    const tiers = [[discovered('x'), discovered('y')], [discovered('z')]];
    const names = (list: readonly UpstreamAddress[]) => list.map(({ name }) => name);
    choice.discover(tiers);
    for (const [name, better] of [
      ['a', []],
      ['x', ['a']],
      ['y', ['a']],
      ['z', ['a', 'x', 'y']],
    ] as const) {
      assert.equal(choice.next(() => 0).upstream.name, name);
      assert.deepEqual(names(choice.better()), better);
    }
    choice.succeeded();
    const x = choice.better()[1] as UpstreamAddress;
    assert.equal(choice.saw(x, true, 0), false);
    // The same node is known again when the list is read anew.
    choice.discover([[discovered('x')], [discovered('z')]]);
    assert.equal(choice.saw(choice.better()[1] as UpstreamAddress, true, 1000), true);
    choice.moveTo(choice.better()[1] as UpstreamAddress, 1000);
    assert.equal(choice.next(() => 0).upstream.name, 'x');
  });

  it('leaves one that has withdrawn for whatever there is, and knows it again when it comes back', () => {
    const choice = new UpstreamChoice([a], BACK_OFF, 1000);
    choice.discover([[discovered('x')]]);
    choice.next(() => 0);
    assert.equal(choice.next(() => 0).upstream.name, 'x');
    choice.succeeded();
    choice.discover([[discovered('y')]]);
    assert.deepEqual(
      choice.better().map(({ name }) => name),
      ['a', 'y'],
    );
    choice.discover([[discovered('x')]]);
    assert.deepEqual(
      choice.others().map(({ name }) => name),
      ['a'],
    );
  });

  it('whatever comes and goes: tries all there are, nobody else, configured ones first, and waits within bounds', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const dice = new Dice(seed);
      const own = ['c1', 'c2', 'c3'].slice(0, dice.between(1, 3)).map(configured);
      const choice = new UpstreamChoice(own, BACK_OFF, 1000);
      let known: readonly UpstreamAddress[] = own;
      let current: UpstreamAddress | undefined;
      let nowMs = 0;
      const draw = (): void => {
        const tiers = Array.from({ length: dice.below(3) }, (_, tier) => {
          return ['p', 'q', 'r'].filter(() => dice.chance(0.5)).map((name) => discovered(`${name}${tier}`));
        });
        choice.discover(tiers);
        known = [...own, ...tiers.flat()];
      };
      const nameOf = ({ name }: UpstreamAddress) => name as string;
      for (let step = 0; step < 60; step++) {
        nowMs += dice.below(3000);
        if (dice.chance(0.3)) draw();
        if (dice.chance(0.3) && current !== undefined) {
          choice.succeeded();
          for (const better of choice.better()) {
            assert.notEqual(nameOf(better), nameOf(current), `seed ${seed}: better than itself`);
            if (!choice.saw(better, dice.chance(0.7), nowMs) || dice.chance(0.5)) continue;
            choice.moveTo(better, nowMs);
            const moved: UpstreamAddress = choice.next(() => dice.roll()).upstream;
            assert.equal(moved, better, `seed ${seed}`);
            current = moved;
            choice.succeeded();
            break;
          }
          if (dice.chance(0.5)) choice.lost(nowMs);
        }
        const { upstream, delayMs } = choice.next(() => dice.roll());
        assert.ok(known.map(nameOf).includes(nameOf(upstream)), `seed ${seed}: ${upstream.name} is not there any more`);
        assert.ok(delayMs >= 0 && delayMs <= BACK_OFF.maxMs, `seed ${seed}: waits ${delayMs} ms`);
        current = upstream;
      }
      // Nothing changes any more: from the next round on, each round has all of them, configured ones first.
      draw();
      choice.succeeded();
      const round = known.map(() => nameOf(choice.next(() => 0).upstream));
      assert.deepEqual(round.toSorted(), known.map(nameOf).toSorted(), `seed ${seed}`);
      assert.deepEqual(round.slice(0, own.length).toSorted(), own.map(nameOf), `seed ${seed}`);
    }
  });
});
