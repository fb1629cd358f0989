/** A follower whose certificate hides its scope, over a link in memory: what it is sent before, with and without what opens it. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { followerOf } from '../../src/node/certificates/follower-scope.js';
import { hideScope } from '../../src/pki/hidden-scope.js';
import { type CertifiedScope, scopeNames } from '../../src/pki/scope-names.js';
import { encodeFrame, type Frame, FrameDecoder } from '../../src/replication/frames/frames.js';
import type { Peer, PeerLink } from '../../src/replication/link.js';
import { Scope } from '../../src/replication/scope.js';
import { ScopePolicy, type ScopeRules } from '../../src/replication/scope-policy.js';
import { eventually } from '../support/local-runtime.js';
import { CLUSTER, put, TestCluster } from '../support/replication-pair.js';

const EDGE = { clusterId: CLUSTER, role: 'edge', name: 'edge' } as const;
const { name, opening } = hideScope(scopeNames(['default/jp/', 'vault']));
const HIDDEN: CertifiedScope = { kind: 'hidden', name };

describe('a follower whose certificate hides its scope', () => {
  let cluster: TestCluster;
  let policy: ScopePolicy;
  /** Who it was said to be with its scope opened. */
  let opened: (Peer | undefined)[];
  let frames: Frame[];
  let isClosed: boolean;

  beforeEach(() => {
    cluster = new TestCluster();
    opened = [];
    frames = [];
    isClosed = false;
  });
  afterEach(async () => await cluster.close());

  /** A root with these rules, and what to give it as bytes of this follower. */
  async function linked(rules: ScopeRules, scope: CertifiedScope): Promise<(chunk: Buffer) => void> {
    policy = new ScopePolicy(rules);
    const root = cluster.root();
    const server = cluster.serve(root, { scopeFor: (peer) => policy.for(peer), heartbeatMs: 5, proofMs: 5 });
    await put(root.store as never, { 'jp/a': 'seen', 'us/a': 'SECRET' });
    const decoder = new FrameDecoder();
    const link: PeerLink = {
      send: (chunks) => {
        for (const chunk of chunks) frames.push(...decoder.push(chunk));
        decoder.allowLargeFrames();
      },
      queuedBytes: 0,
      pause: () => undefined,
      resume: () => undefined,
      close: () => {
        isClosed = true;
      },
      destroy: () => undefined,
    };
    const peer = followerOf({ peer: EDGE, peerAddress: 'memory', scope }, (known) => opened.push(known));
    const session = server.accept(peer, link);
    return (chunk) => session.onData(chunk);
  }

  const hello = (scopeOpening?: Buffer, isLook = false): Buffer => {
    const self = { instanceId: 'ab'.repeat(16), name: 'edge' };
    const can = { seeded: false, takesHorizon: true, resumes: false, unpacks: [], scopeId: Scope.WHOLE.id } as const;
    const rest = scopeOpening === undefined ? {} : { scopeOpening };
    return encodeFrame({ type: 'hello', version: 1, clusterId: CLUSTER, self, position: [], isLook, ...can, ...rest });
  };
  const moment = async (): Promise<void> => await new Promise((resolve) => setTimeout(resolve, 50));

  for (const rules of ['all', 'certificates'] as const) {
    it(`is sent nothing before its HELLO, and then its part: replication.scopes ${rules}`, async () => {
      const say = await linked(rules, HIDDEN);
      await moment();
      assert.equal(frames.length, 0);
      say(hello(Buffer.from(opening)));
      await eventually('it is seeded', () => frames.some(({ type }) => type === 'snapshotEnd'));
      const [welcome] = frames;
      assert.ok(welcome?.type === 'welcome');
      assert.equal(String(Scope.decode(welcome.scope)), 'default ("jp/"), vault');
      assert.ok(
        !JSON.stringify(frames, (_, value) => (typeof value === 'bigint' ? String(value) : value)).includes('us/a'),
      );
      assert.equal(String(opened[0]?.scope), 'default ("jp/"), vault');
    });

    for (const [what, sent] of [
      ['nothing', undefined],
      ['what opens another', Buffer.from(hideScope(scopeNames(['*'])).opening)],
      ['the same names with another salt', Buffer.from(hideScope(scopeNames(['default/jp/', 'vault'])).opening)],
      ['no opening at all', Buffer.from('*')],
    ] as const) {
      it(`is refused, and told no more, when it shows ${what}: replication.scopes ${rules}`, async () => {
        for (const isLook of [true, false]) {
          const say = await linked(rules, HIDDEN);
          say(hello(sent, isLook));
          await moment();
          assert.deepEqual(
            frames.map(({ type }) => type),
            ['refuse'],
          );
          const [refusal] = frames.splice(0);
          assert.match(refusal?.type === 'refuse' ? refusal.message : '', /hides its scope, and .* (opens|open) it/);
          assert.ok(isClosed);
        }
        assert.deepEqual(opened, [undefined, undefined]);
      });
    }
  }

  it('gets no more than the rules give it, and nothing where they give nothing', async () => {
    const rule = { names: ['edge'], roles: [], databases: ['vault'], prefixes: [] };
    const say = await linked([rule], HIDDEN);
    say(hello(Buffer.from(opening)));
    await eventually('it is welcome', () => frames.length > 0);
    const [welcome] = frames.splice(0);
    assert.equal(welcome?.type === 'welcome' && String(Scope.decode(welcome.scope)), 'vault');
    const ask = await linked([{ ...rule, names: ['other'] }], HIDDEN);
    ask(hello(Buffer.from(opening)));
    await moment();
    const refusal = frames.find(({ type }) => type === 'refuse');
    assert.match(refusal?.type === 'refuse' ? refusal.message : '', /lets edge follow nothing that is here/);
  });

  it('is judged by its certificate alone where that can be read, whatever it shows', async () => {
    const parts = [{ databases: ['default'], prefixes: [Buffer.from('jp/')] }];
    const say = await linked('all', { kind: 'parts', parts });
    say(hello(Buffer.from(hideScope(scopeNames(['*'])).opening)));
    await eventually('it is welcome', () => frames.length > 0);
    const [welcome] = frames;
    assert.equal(welcome?.type === 'welcome' && String(Scope.decode(welcome.scope)), 'default ("jp/")');
    assert.deepEqual(opened, []);
  });
});
