/** When a snapshot that was broken off goes on, at its source, and when another one begins. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { NEVER_EXPIRES } from '../../src/base/types.js';
import type { Hello, SnapshotPlace } from '../../src/replication/frames/frames.js';
import { Scope } from '../../src/replication/scope.js';
import type { SnapshotSender } from '../../src/replication/sending/snapshot-sender.js';
import { Snapshots } from '../../src/replication/sending/snapshots.js';
import type { LocalStore } from '../../src/store/store.js';
import { localRuntime } from '../support/local-runtime.js';
import { withBench } from '../support/store-model.js';

const RESUME_MS = 1000;
const ROWS = 9;

/** A source with some rows that go one by one, and a clock that stands still. */
class Source {
  readonly store: LocalStore;
  readonly snapshots: Snapshots;
  readonly #deadlines = new Set<() => void>();

  constructor(store: LocalStore, resumeMs = RESUME_MS) {
    this.store = store;
    const runtime = localRuntime({
      after: (delayMs, fn) => {
        assert.equal(delayMs, resumeMs);
        this.#deadlines.add(fn);
        return { cancel: () => this.#deadlines.delete(fn) };
      },
    });
    const pace = { sliceBytes: 1, bytesPerSecond: undefined, packs: false, monotonicMs: () => 0 };
    this.snapshots = new Snapshots({ store, runtime, log: silentLogger, pace, resumeMs });
  }

  async fill(): Promise<void> {
    await this.store.write((view) => {
      for (let i = 0; i < ROWS; i++) view.set('default', Buffer.from(`k${i}`), Buffer.from('v'), NEVER_EXPIRES);
    }).committed;
  }

  hello(unfinished?: SnapshotPlace, rest: Partial<Hello> = {}): Hello {
    return {
      type: 'hello',
      version: 1,
      clusterId: '',
      self: { instanceId: 'f', name: 'f' },
      seeded: false,
      isLook: false,
      takesHorizon: true,
      resumes: true,
      unpacks: [],
      position: [],
      scopeId: Scope.WHOLE.id,
      unfinished,
      ...rest,
    };
  }

  /** `follower` got so many rows, and its link broke. */
  brokenOff(follower: string, rows: number): SnapshotPlace {
    const sender = this.snapshots.open(follower, Scope.WHOLE, this.hello());
    for (let i = 0; i < rows; i++) sender.next();
    this.snapshots.keep(follower, sender);
    return { id: sender.walk.id as string, rows };
  }

  openAgain(place: SnapshotPlace | undefined, rest: Partial<Hello> = {}, scope = Scope.WHOLE): SnapshotSender {
    return this.snapshots.open('f', scope, this.hello(place, rest));
  }

  timeIsOver(): void {
    for (const deadline of [...this.#deadlines]) deadline();
  }
}

async function withSource(test: (source: Source) => Promise<void> | void, resumeMs = RESUME_MS): Promise<void> {
  await withBench(async (bench) => {
    const source = new Source(bench.store(1), resumeMs);
    await source.fill();
    try {
      await test(source);
    } finally {
      source.snapshots.close();
      assert.equal(source.snapshots.kept, 0);
    }
  });
}

/** Rows that are still sent. */
function restOf(sender: SnapshotSender): number {
  const before = sender.rows;
  while (sender.next() !== undefined);
  const rows = sender.rows - before;
  sender.walk.close();
  return rows;
}

describe('a snapshot that was broken off', () => {
  it('goes on behind any row that a slice ended with, though more was sent', async () => {
    await withSource((source) => {
      const { id } = source.brokenOff('f', 6);
      const sender = source.openAgain({ id, rows: 4 });
      assert.deepEqual(sender.progress, { rows: 4, of: ROWS, resumedAt: 4 });
      assert.equal(sender.begin.type === 'snapshotBegin' && sender.begin.from?.rows, 4);
      assert.equal(restOf(sender), ROWS - 4);
      assert.equal(source.snapshots.resumed, 1);
    });
  });

  it('shows the moment at which it began, whatever was written since', async () => {
    await withSource(async (source) => {
      const place = source.brokenOff('f', 2);
      await source.store.write((view) => view.clear('default')).committed;
      assert.equal(restOf(source.openAgain(place)), ROWS - 2);
    });
  });

  it('begins again for who names nothing, another one, or a row at which no slice ended', async () => {
    for (const change of [
      (): undefined => undefined,
      ({ rows }: SnapshotPlace): SnapshotPlace => ({ id: '00'.repeat(16), rows }),
      ({ id }: SnapshotPlace): SnapshotPlace => ({ id, rows: 8 }),
      ({ id }: SnapshotPlace): SnapshotPlace => ({ id, rows: 0 }),
    ]) {
      await withSource((source) => {
        const place = source.brokenOff('f', 5);
        const sender = source.openAgain(change(place));
        assert.notEqual(sender.walk.id, place.id);
        assert.equal(restOf(sender), ROWS);
        assert.equal(source.snapshots.kept, 0, 'the old one is gone');
      });
    }
  });

  it('begins again under another scope, and for a follower that has gone beyond its moment meanwhile', async () => {
    await withSource((source) => {
      const scope = Scope.of([{ databases: ['default'], prefixes: [] }]);
      const place = source.brokenOff('f', 5);
      assert.notEqual(source.openAgain(place, {}, scope).walk.id, place.id);
    });
    await withSource(async (source) => {
      const place = source.brokenOff('f', 5);
      await source.store.write((view) => view.clear('other')).committed;
      const position = source.store.position();
      assert.notEqual(source.openAgain(place, { seeded: true, position }).walk.id, place.id);
    });
  });

  it('is not kept beyond its deadline, for a follower that asks for something else, or beyond three', async () => {
    await withSource((source) => {
      const place = source.brokenOff('f', 5);
      source.timeIsOver();
      assert.equal(source.snapshots.kept, 0);
      assert.notEqual(source.openAgain(place).walk.id, place.id);
    });
    await withSource((source) => {
      source.brokenOff('f', 5);
      source.snapshots.greeted('f', source.hello());
      assert.equal(source.snapshots.kept, 0);
    });
    await withSource((source) => {
      const place = source.brokenOff('f', 5);
      for (const other of ['g', 'h', 'i']) source.brokenOff(other, 1);
      assert.equal(source.snapshots.kept, 3);
      assert.notEqual(source.openAgain(place).walk.id, place.id);
    });
  });

  it('has no name, and is not kept, for an older follower and where the setting is 0', async () => {
    await withSource((source) => {
      const sender = source.openAgain(undefined, { resumes: false });
      assert.equal(sender.begin.type === 'snapshotBegin' && sender.begin.from, undefined);
      source.snapshots.keep('f', sender);
      assert.equal(source.snapshots.kept, 0);
    });
    await withSource((source) => {
      const sender = source.openAgain(undefined);
      source.snapshots.keep('f', sender);
      assert.equal(source.snapshots.kept, 0);
    }, 0);
  });
});
