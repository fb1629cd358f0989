/**
 * Bugs planted on purpose, to show that the simulation finds them. Each is an exact text of the built code and what
 * stands there instead; when the text is not there (any more), the mutant fails and has to be written anew.
 */

export interface Edit {
  /** File of the build, below `dist/src`. */
  readonly file: string;
  /** Occurs there exactly once. */
  readonly from: string;
  readonly to: string;
}

export interface Mutant {
  readonly name: string;
  /** What is wrong with it. */
  readonly about: string;
  readonly edits: readonly Edit[];
  /** The scenario that catches it, where seeds would seldom come to it. */
  readonly scenario?: string;
}

export function mutant(name: string, about: string, ...edits: readonly (readonly [string, string, string])[]): Mutant {
  return { name, about, edits: edits.map(([file, from, to]) => ({ file, from, to })) };
}

/** One that a scenario catches. */
function played(scenario: string, ...rest: Parameters<typeof mutant>): Mutant {
  return { ...mutant(...rest), scenario };
}

export const MUTANTS: readonly Mutant[] = [
  mutant('ack-before-durable', 'a flushed write is acknowledged when it is committed', [
    'store/commit-queue.js',
    'await this.#flush;',
    '',
  ]),
  mutant('position-outside-transaction', 'a commit writes the position of the commit before it', [
    'store/store.js',
    'STATE_KEY, encodeState(state)',
    'STATE_KEY, encodeState(this.#state)',
  ]),
  mutant(
    'skip-on-gap',
    'a sender drops what does not fit, and a receiver goes on behind the gap',
    [
      'replication/sending/follower-session.js',
      'onBatch(batch) {',
      "onBatch(batch) {\n        if (this.#state === 'following' && this.#isFull())\n            this.#next = batch.next;",
    ],
    ['store/numbering.js', 'header.sequence !== reached + 1 ||', ''],
  ),
  mutant('apply-twice', 'what was applied before is applied again', [
    'store/numbering.js',
    'if (last === undefined || header.epoch <= last.epoch)\n            return false;',
    'if (last === undefined || header.epoch <= last.epoch)\n            return true;',
  ]),
  mutant('wrong-tie-break', 'of two changes with the same version, the first stays', [
    'store/record.js',
    'return difference > 0;\n        }\n        return false;',
    'return difference > 0;\n        }\n        return true;',
  ]),
  mutant('older-wins', 'the lower version stays', [
    'store/record.js',
    'return difference > 0;',
    'return difference < 0;',
  ]),
  mutant('clock-goes-back', 'versions follow the wall clock wherever it goes', [
    'store/draft.js',
    '(nowNs > lastVersionNs ? nowNs : lastVersionNs + 1n)',
    'nowNs',
  ]),
  mutant('tombstone-dropped-early', 'tombstones go five transactions before their log entries', [
    'store/draft.js',
    'const end = indexKey(firstLogged, 0, EMPTY);',
    'const end = indexKey(firstLogged + 5, 0, EMPTY);',
  ]),
  mutant(
    'expiry-of-older-record',
    'a record is collected at the expiration time it had before it was overwritten',
    ['store/draft.js', 'record?.isTombstone === false && record.xtMs === xtMs', 'record?.isTombstone === false'],
    [
      'store/draft.js',
      'if (xtMs !== NEVER_EXPIRES)\n            this.#writer.remove(',
      'if (false)\n            this.#writer.remove(',
    ],
  ),
  mutant('clear-clears-all', 'a clear of a prefix clears the database', [
    'store/draft.js',
    'return begins(false) && begins(true);',
    'return true;',
  ]),
  mutant('silence-ignored', 'a link on which nothing comes any more is kept', [
    'replication/following/upstream-follower.js',
    'if (silentMs < this.#options.silenceMs)',
    'if (silentMs >= 0)',
  ]),
  mutant('heartbeat-covered-early', 'a node takes a heartbeat as reached when it hears it', [
    'replication/frames/heartbeats.js',
    'have.epoch >= beat.epoch && have.sequence >= beat.sequence',
    'have.epoch >= beat.epoch',
  ]),
  mutant('proof-of-elsewhere', 'a proof is compared at another position than it was made for', [
    'replication/following/equality.js',
    'if (!isSamePosition(store.position(), proof.position))',
    'if (store.position().length === 0)',
  ]),
  mutant('seeded-backwards', 'a node sends its snapshot to a follower that knows more than it does', [
    'replication/sending/greeting.js',
    "if (found.kind === 'from' || hello.origin !== undefined)",
    "if (found.kind !== '')",
  ]),
  mutant('own-writes-not-carried', 'a root that another one seeds forgets what only it had', [
    'store/carry-over.js',
    'else if (!this.#isOver(header))',
    'else if (!this.#isOver(header) && header.sid !== this.#from.sid)',
  ]),
  mutant('seeded-at-its-own-cost', 'a root takes any snapshot of another one, and swaps', [
    'node/data/store-holder.js',
    'if (this.#isRoot)\n                    await this.#join(engine);',
    'if (false)\n                    await this.#join(engine);',
  ]),
  played('roots-apart', 'absence-is-removal', 'a root that merges drops every record that the other one lacks', [
    'store/merge.js',
    "if (there === undefined)\n        return 'here';",
    "if (there === undefined)\n        return 'there';",
  ]),
  played(
    'roots-apart',
    'unseen-removals-forgotten',
    'a root forgets removals with its log, and merges all the same',
    ['node/replica.js', 'await store.sweep(upToMs, settled)', 'await store.sweep(upToMs)'],
    ['store/carry-over.js', 'if (forgottenBeyond(forgotten, position) !== undefined)', 'if (false)'],
    ['store/carry-over.js', 'if (forgottenBeyond(store.known.forgotten, there) !== undefined)', 'if (false)'],
  ),
  played('roots-apart', 'merge-forgets-clears', 'a root that merges knows of clears no more than the other one does', [
    'store/merge.js',
    'await this.#to.prepare([], (draft) => this.#bringClears(draft));',
    '',
  ]),
  played('roots-apart', 'merge-takes-older', 'a root that merges lets its own record stand, newer or not', [
    'store/merge.js',
    "return here.isNewerThan(there.stamp) ? 'here' : 'there';",
    "return 'here';",
  ]),
  mutant('peer-news-lost', 'a root leaves out what the first one makes', [
    'replication/frames/exchange.js',
    'if (header.sid === sid)',
    'if (header.sid === sid || header.sid === 1)',
  ]),
  mutant('hash-misses-removal', 'the set hash of a database keeps what was removed', [
    'store/draft.js',
    'this.#hash(database, -1, key, before, xtMs);',
    'if (false)\n            this.#hash(database, -1, key, before, xtMs);',
  ]),
  mutant('part-hash-misses-removal', 'the hash of a part keeps what was removed from it', [
    'store/part-hashes.js',
    'this.#hasher.count(changed.hash, sign, key, record);',
    'if (sign > 0)\n                this.#hasher.count(changed.hash, sign, key, record);',
  ]),
  mutant('scope-ignored-in-snapshot', 'a follower that has a part is seeded with whole databases', [
    'store/snapshot.js',
    'rangesOf(scope.keysOf(name))',
    "rangesOf('all')",
  ]),
  mutant('scope-ignored-in-log', 'a follower that has a part is sent small batches as they are', [
    'replication/scope.js',
    'if (this.isWhole)\n            return payload;',
    'if (this.isWhole || payload.length < 200)\n            return payload;',
  ]),
  mutant('clear-beyond-part-dropped', 'a clear of more than the part a follower has does not reach it', [
    'replication/scope.js',
    "return inside === 'all' ? [change] : inside.map((prefix) => ({ ...change, prefix }));",
    "return inside === 'all' ? [change] : [];",
  ]),
  mutant('epoch-reused', 'an epoch is numbered in before it is on the disk', [
    'store/store.js',
    'await this.#queue.add({ databases: [], run: reserve }).flushed;',
    '',
  ]),
  mutant('no-epoch-after-recall', 'a root that took its tail back goes on in its epoch', [
    'node/data/recovery.js',
    'await beginEpoch();',
    '',
  ]),
  mutant('lost-tail-unnoticed', 'a root numbers on after a power cut as if nothing were missing', [
    'node/data/data-directory.js',
    'this.tailMayBeLost = cutOff || before?.tailMayBeLost === true;',
    'this.tailMayBeLost = false;',
  ]),
  mutant('writes-while-recovering', 'a root takes writes before it has its tail back', [
    'node/data/recovery.js',
    'if (!this.active)\n            return undefined;\n        return new TokaidoError(',
    'if (this.active || !this.active)\n            return undefined;\n        return new TokaidoError(',
  ]),
  mutant('swap-before-flush', 'a loaded snapshot becomes the store before it is on the disk', [
    'store/snapshot.js',
    'await flushed;',
    'flushed.catch(() => undefined);',
  ]),
  mutant('swap-before-loaded', 'the data directory names the new store before it is whole', [
    'node/data/store-holder.js',
    'await loader.finish(rows);',
    'directory.adoptNextStore();\n                await loader.finish(rows);',
  ]),
  mutant('snapshot-of-many-moments', 'a snapshot reads the newest state slice by slice', [
    'store/snapshot.js',
    'this.#snapshot = engine.snapshot();',
    'this.#snapshot = Object.assign(Object.create(engine), { get: (m, k) => engine.get(m, k), range: (m, r) => engine.range(m, r), close: () => undefined });',
  ]),
  mutant('log-before-swap', 'batches behind a snapshot go to the store that it replaces', [
    'replication/following/upstream-session.js',
    'this.#received(payload.length);\n        if (this.#snapshotSent) {',
    'this.#received(payload.length);\n        if (this.#state === "loading")\n            this.#apply(payload);\n        else if (false) {',
  ]),
  mutant('old-store-served', 'after a snapshot a relay goes on serving the store it had', [
    'node/replica.js',
    'this.stores.onSwap(() => this.#serveFollowers());',
    '',
  ]),
  mutant('garbage-kept', 'data that was not flushed in order is used after a power cut', [
    'node/data/data-directory.js',
    '!before.flushesCommits &&',
    'false &&',
  ]),
  played(
    'vanished-copy',
    'stalled-copy-kept',
    'a follower that vanished in the middle of its snapshot keeps its turn',
    [
      'replication/sending/server.js',
      'else if (nowMs - progress.sinceMs > this.#options.stalledMs)',
      'else if (nowMs < 0)',
    ],
  ),
  played(
    'turn-to-each-other',
    'loop-unseen',
    'nodes look neither for themselves on their way to the root nor at its length',
    ['replication/following/upstream-session.js', 'if (at >= 0) {', 'if (at > 1e6) {'],
    ['replication/following/upstream-session.js', 'if (path.length >= MAX_PATH)', 'if (path.length > 1e6)'],
  ),
  played('broken-copies', 'resumed-one-row-late', 'a snapshot that was broken off goes on one row too late', [
    'replication/sending/snapshot-walk.js',
    'this.#source.goTo(mark.at);',
    'this.#source.goTo(mark.at);\n        this.#source.next(1);',
  ]),
  played('copies-of-two', 'resumed-elsewhere', "a snapshot goes on behind the rows of another node's", [
    'replication/sending/snapshots.js',
    "runtime.randomBytes(ID_BYTES).toString('hex')",
    "'00'.repeat(ID_BYTES)",
  ]),
  played('lost-upstream', 'never-discovered', 'nodes that have announced themselves are never tried', [
    'replication/following/upstream-follower.js',
    'if (discovered !== undefined)',
    'if (false)',
  ]),
  mutant('late-start', 'a sender begins one batch too late', [
    'log/update-log.js',
    'first = Math.min(first, start.first);',
    'first = Math.min(first, start.first + start.count);',
  ]),
];
