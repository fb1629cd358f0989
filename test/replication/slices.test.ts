/**
 * A follower that takes the log as fast as it comes does not get all of it in one turn of the event loop: whoever else
 * has a question to this node waits for a slice of it at most (invariant 6).
 */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { encodeFollowRequest, KtStreamDecoder } from '../../src/protocol/kt-replication.js';
import { KtReplicationServer } from '../../src/replication/kyoto-tycoon/server.js';
import type { PeerLink } from '../../src/replication/link.js';
import type { LocalStore } from '../../src/store/store.js';
import { eventually } from '../support/local-runtime.js';
import { put, TestCluster, type TestNode } from '../support/replication-pair.js';

const BATCHES = 2000;
/** Two slices may fall between two looks of the meter; a slice counts a KiB for each batch beside its bytes. */
const MOST_BATCHES = 600;

/** Counts what is sent, in all and at most in one turn of the event loop. */
class Meter {
  readonly chunks: Buffer[] = [];
  #thisTurn = 0;
  mostBytes = 0;

  count(chunks: readonly Buffer[]): void {
    if (this.#thisTurn === 0) {
      setImmediate(() => {
        this.#thisTurn = 0;
      });
    }
    for (const chunk of chunks) this.#thisTurn += chunk.length;
    this.mostBytes = Math.max(this.mostBytes, this.#thisTurn);
    this.chunks.push(...chunks.map((chunk) => Buffer.from(chunk)));
  }

  get bytes(): number {
    return this.chunks.reduce((sum, { length }) => sum + length, 0);
  }
}

describe('the log, for a follower that takes it as fast as it comes', () => {
  let cluster: TestCluster;
  let root: TestNode;
  const meter = (): Meter => new Meter();
  const rootStore = (): LocalStore => root.store as LocalStore;

  beforeEach(async () => {
    cluster = new TestCluster();
    root = cluster.root();
    for (let i = 0; i < BATCHES; i++) await put(rootStore(), { [`key${i}`]: `value${i}` });
  });
  afterEach(async () => await cluster.close());

  it('goes to one of ours slice by slice', async () => {
    // Nothing of it is in memory, and the queue of the link never fills.
    cluster.serve(root, { ringBytes: 1, queueBytes: 2 ** 30 });
    const edge = cluster.node('edge', cluster.openStore(undefined));
    const { down } = cluster.follow(edge, root);
    const sent = meter();
    const send = down.send.bind(down);
    down.send = (chunks) => {
      sent.count(chunks);
      send(chunks);
    };
    await eventually('it has everything', () => edge.store?.log.next === rootStore().log.next);
    assert.ok(sent.mostBytes < sent.bytes / (BATCHES / MOST_BATCHES), `${sent.mostBytes} of ${sent.bytes} in one turn`);
  });

  it('goes to a Kyoto Tycoon server slice by slice', async () => {
    const server = new KtReplicationServer({
      store: rootStore(),
      runtime: cluster.runtime,
      log: silentLogger,
      heartbeatMs: 1000,
      silenceMs: 60_000,
      queueBytes: 2 ** 30,
      snapshots: 1,
    });
    const sent = meter();
    let onDrain: () => void = () => undefined;
    const link: PeerLink = {
      send: (chunks) => {
        sent.count(chunks);
        // As a socket does that has handed everything to the system.
        process.nextTick(() => onDrain());
      },
      queuedBytes: 0,
      pause: () => undefined,
      resume: () => undefined,
      close: () => undefined,
      destroy: () => undefined,
    };
    const session = server.accept({ address: 'memory', name: undefined }, link);
    onDrain = () => session.onDrain();
    session.onData(encodeFollowRequest({ timestampNs: 0n, sid: 7, onlySid: false }));
    await eventually('all was sent', () => session.lagChanges() === 0);
    server.closed(session);
    server.close();
    const decoder = new KtStreamDecoder(2 ** 20);
    const updates = [...decoder.push(Buffer.concat(sent.chunks))].filter(({ kind }) => kind === 'update');
    assert.equal(updates.length, BATCHES);
    assert.ok(sent.mostBytes < sent.bytes / (BATCHES / MOST_BATCHES), `${sent.mostBytes} of ${sent.bytes} in one turn`);
  });
});
