/** The invariants, checked against one node's store: what it holds, where it stands, and what it may show. */
import { NEVER_EXPIRES, type Position, type Sid } from '../base/types.js';
import { originOf } from '../log/position.js';
import { positionAfter } from '../log/update-log.js';
import { StoredRecord } from '../store/record.js';
import { decodeState, EMPTY_STATE, type StoreState } from '../store/state.js';
import { type LocalStore, STATE_KEY } from '../store/store.js';
import { type Expected, type History, numberOf, Violation } from './history.js';
import { type Parts, shows } from './scopes.js';

/** The state row as it lies beside the data. */
export function stateOf(store: LocalStore): StoreState {
  const { engine } = store;
  const row = engine.get(engine.openMap('meta'), STATE_KEY);
  return row === undefined ? EMPTY_STATE : decodeState(Buffer.from(row));
}

const describe = (position: Position): string => position.map(numberOf).join(' ') || 'the start';

/** What a check goes by. */
interface View {
  readonly latestMs: number;
  readonly withMemory: boolean;
  /** What the node may have. */
  readonly parts: Parts;
}

/** Whether a node may have a key `database/key`. */
function isShown(parts: Parts, full: string): boolean {
  const at = full.indexOf('/');
  return shows(parts, full.slice(0, at), full.slice(at + 1));
}

/**
 * Invariants 1, 3, 4, 7 and 12: a store holds what its position says, whole transactions of it, and nothing else: of a
 * node that has a part, that part. Databases in memory are left out while they are brought back.
 */
export function checkContents(
  node: string,
  store: LocalStore,
  history: History,
  { latestMs, withMemory, parts }: View,
): void {
  const stored = stateOf(store);
  const databases = stored.databases.filter(({ storage }) => withMemory || storage === 'disk');
  const state = { ...stored, databases };
  const expected = history.expected(state.position);
  const seen = new Set<string>();
  for (const { id, name, storage, records } of state.databases) {
    let live = 0;
    const map = store.engine.openMap(`records-${id}`);
    for (const { key, value } of store.engine.range(map, {})) {
      const full = `${name}/${key.toString('latin1')}`;
      const record = new StoredRecord(value);
      seen.add(full);
      if (!record.isTombstone) live++;
      if (!isShown(parts, full)) throw new Violation(7, `${node} has ${full}, which it may not see`);
      const difference = differenceOf(record, full, expected, latestMs);
      if (difference === undefined) continue;
      throw new Violation(3, `${node} at ${describe(state.position)}: ${full} ${difference}`);
    }
    // What is in memory is counted again when it is brought back; the row follows with the next commit.
    const counted = storage === 'memory' ? store.count(name) : records;
    if (live !== counted) throw new Violation(1, `${node} counts ${counted} records in ${name} and has ${live}`);
  }
  checkMissing(node, store, state, expected, seen, { latestMs, withMemory, parts });
}

function differenceOf(record: StoredRecord, key: string, expected: Expected, latestMs: number): string | undefined {
  const wanted = expected.records.get(key);
  if (wanted === undefined) return 'is there, and nobody wrote it';
  if (record.versionNs !== wanted.versionNs || record.sid !== wanted.sid) {
    return `has version ${record.versionNs}.${record.sid} instead of ${wanted.versionNs}.${wanted.sid}`;
  }
  const hasExpired = wanted.xtMs !== NEVER_EXPIRES && wanted.xtMs <= latestMs;
  if (record.isTombstone) return wanted.value === undefined || hasExpired ? undefined : 'is removed, and was not';
  if (wanted.value === undefined) return 'is there, and was removed';
  if (record.value.toString('latin1') !== wanted.value) return `holds ${record.value} instead of ${wanted.value}`;
  return record.xtMs === wanted.xtMs ? undefined : `expires at ${record.xtMs} instead of ${wanted.xtMs}`;
}

/** What is not there must have been removed, or expired, so long ago that the log has forgotten it. */
function checkMissing(
  node: string,
  store: LocalStore,
  state: StoreState,
  expected: Expected,
  seen: ReadonlySet<string>,
  { latestMs, withMemory, parts }: View,
): void {
  let forgotten: Position | undefined;
  for (const [key, { value, xtMs, by }] of expected.records) {
    if (!isShown(parts, key)) continue;
    if (!state.databases.some(({ name }) => key.startsWith(`${name}/`))) {
      if (withMemory) throw new Violation(3, `${node} has no database for ${key}`);
      continue;
    }
    if (seen.has(key) || (value !== undefined && xtMs !== NEVER_EXPIRES && xtMs <= latestMs)) continue;
    if (value !== undefined) throw new Violation(3, `${node} at ${describe(state.position)}: ${key} is missing`);
    forgotten ??= store.log.first < state.next ? (store.log.batchAt(store.log.first)?.before ?? []) : state.position;
    if (by.sequence <= (originOf(forgotten, by.sid)?.sequence ?? 0)) continue;
    throw new Violation(4, `${node}: the tombstone of ${key} is gone, and its log entry ${numberOf(by)} is not`);
  }
}

/** Invariant 2, over everything a log still has: without gaps, up to the store's position. */
export function checkLog(node: string, store: LocalStore, history: History, parts: Parts): void {
  const { log } = store;
  let position: Position | undefined;
  for (let at = log.first; at < log.next; ) {
    const batch = log.batchAt(at);
    if (batch === undefined || batch.first !== at) throw new Violation(2, `${node}: its log has no number ${at}`);
    if (position !== undefined && describe(batch.before) !== describe(position)) {
      throw new Violation(2, `${node}: its log goes on from ${describe(batch.before)} after ${describe(position)}`);
    }
    history.see(node, batch, parts);
    position = positionAfter(batch);
    at = (at + batch.count) as typeof at;
  }
  const stored = stateOf(store).position;
  if (position !== undefined && describe(position) !== describe(stored)) {
    throw new Violation(3, `${node} is at ${describe(stored)}, its log ends at ${describe(position)}`);
  }
}

/** Whether `now` has everything that `before` had, or a later epoch of it. */
export function isAtLeast(now: Position, before: Position): boolean {
  return before.every(({ sid, epoch, sequence }) => {
    const have = originOf(now, sid);
    return have !== undefined && (have.epoch > epoch || (have.epoch === epoch && have.sequence >= sequence));
  });
}

export function checkNotBehind(node: string, now: Position, before: Position, what: string): void {
  if (isAtLeast(now, before)) return;
  throw new Violation(8, `${node} is at ${describe(now)}, ${what} ${describe(before)}`);
}

/**
 * Everything two equal nodes have in common, as far as one with these parts may see it; what has expired by `latestMs` may
 * be collected on one and not on another.
 */
export function dump(store: LocalStore, latestMs: number, parts?: Parts): string {
  const state = stateOf(store);
  const lines = [`position ${state.position.map((origin) => `${numberOf(origin)} ${origin.versionNs}`).join(' ')}`];
  for (const { name } of [...state.databases].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const records: string[] = [];
    for (const { key, record } of store.scan(name, {})) {
      const text = key.toString('latin1');
      if (!shows(parts, name, text) || (record.xtMs !== NEVER_EXPIRES && record.xtMs <= latestMs)) continue;
      records.push(`${text} = ${record.value} ${record.xtMs} ${record.versionNs} ${record.sid}`);
    }
    // Who has a part need not know a database that has nothing for it; and an origin may have one that nothing came into,
    // because the disk refused the first write to it.
    if (records.length > 0) lines.push(`database ${name}`, ...records);
  }
  return lines.join('\n');
}

/** The position after `number`, in the view of one origin. */
export function covers(position: Position, sid: Sid, epoch: number, sequence: number): boolean {
  const have = originOf(position, sid);
  return have !== undefined && (have.epoch > epoch || (have.epoch === epoch && have.sequence >= sequence));
}
