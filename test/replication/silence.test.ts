/** A link on which nothing comes any more is given up, whatever the session was doing. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { type LinkEvents, UpstreamFollower } from '../../src/replication/following/upstream-follower.js';
import { encodeFrame, PROTOCOL_VERSION } from '../../src/replication/frames/frames.js';
import type { PeerLink } from '../../src/replication/link.js';
import { Scope } from '../../src/replication/scope.js';
import { Dice } from '../../src/sim/dice.js';
import { Machine } from '../../src/sim/machine.js';
import { Scheduler } from '../../src/sim/scheduler.js';
import { CLUSTER } from '../support/replication-pair.js';

const SILENCE_MS = 1000;
const path = [{ instanceId: '0f'.repeat(16), name: 'root' }];

describe('an upstream that falls silent', () => {
  it('in the middle of a snapshot is given up, too', async () => {
    const scheduler = new Scheduler();
    const { runtime } = new Machine('edge', scheduler, new Dice(1), () => undefined).start();
    const destroyed: string[] = [];
    const link: PeerLink = {
      send: () => undefined,
      queuedBytes: 0,
      pause: () => undefined,
      resume: () => undefined,
      close: () => undefined,
      destroy: (reason) => void destroyed.push(reason),
    };
    const links: LinkEvents[] = [];
    const follower = new UpstreamFollower({
      upstreams: [{ host: 'root', port: 1, name: 'root' }],
      backOff: { minMs: 10, maxMs: 10 },
      silenceMs: SILENCE_MS,
      staleMs: 60_000,
      returnMs: 60_000,
      freshMs: () => Date.now(),
      runtime,
      log: silentLogger,
      connect: async (_, attach) => void links.push(attach({ name: 'root', role: 'root', address: 'memory' }, link)),
      host: {
        log: silentLogger,
        clusterId: CLUSTER,
        self: { instanceId: 'f0'.repeat(16), name: 'edge' },
        store: () => undefined,
        isFollower: () => false,
        tree: () => [],
        openSnapshot: () => new Promise(() => undefined),
        unappliedBytes: 1 << 20,
        onWelcome: () => undefined,
        onHeartbeat: () => undefined,
        onProof: () => undefined,
        onAudited: () => undefined,
        soon: (fn) => fn(),
        onLoaded: () => undefined,
      },
    });
    await scheduler.step(100);
    const scope = Scope.WHOLE.encoded;
    const welcome = {
      version: PROTOCOL_VERSION,
      clusterId: CLUSTER,
      path,
      rootAddress: '',
      position: [],
      scope,
    } as const;
    links[0]?.onData(encodeFrame({ type: 'welcome', ...welcome, next: 'snapshot', beats: [] }));
    assert.equal(follower.status().state, 'loading');
    while (await scheduler.step(SILENCE_MS * 2));
    assert.match(destroyed[0] ?? '', /^silent for/);
  });
});
