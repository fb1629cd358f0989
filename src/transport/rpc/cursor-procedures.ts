/** Remote procedures on cursors, and those that find keys. */
import { TokaidoError } from '../../base/errors.js';
import type { Cursor, Entry } from '../../commands/cursors.js';
import { matchPrefix, matchRegex, matchSimilar, type Search } from '../../commands/matching.js';
import { readInteger } from '../../protocol/kt-rpc/numbers.js';
import type { Row } from '../../protocol/tsv.js';
import { countOf, databaseOf, expiryOf, maxOf, required, textOf } from './arguments.js';
import { type Call, NOTHING, type Procedure, type Rows, recordRows, row } from './procedure.js';

/** Rows made by one step. */
const STEP_ROWS = 1000;

/** `CUR`, or `undefined` when it is no number. */
function cursorId({ input }: Call): bigint | undefined {
  const text = textOf(input, 'CUR');
  return text !== undefined && /^\d/.test(text) ? readInteger(text) : undefined;
}

/** Errors: `MALFORMED` in the reference's words when there is no number, or no database for a new one. */
function cursorOf(call: Call): Cursor {
  const id = cursorId(call);
  const none = (): TokaidoError => new TokaidoError('MALFORMED', 'no such cursor');
  if (id === undefined) throw none();
  return call.session.cursor(id, () => {
    try {
      return databaseOf(call.input, call.host.commands);
    } catch (error) {
      throw error instanceof TokaidoError && error.code === 'NO_DATABASE' ? none() : error;
    }
  });
}

function onCursor(run: (cursor: Cursor, call: Call) => Promise<Rows>): Procedure {
  return { order: 'alone', run: async (call) => await run(cursorOf(call), call) };
}

/** A procedure that answers nothing but that it was done. */
function moving(move: (cursor: Cursor, call: Call) => Promise<unknown>): Procedure {
  return onCursor(async (cursor, call) => {
    await move(cursor, call);
    return NOTHING;
  });
}

/** What a cursor shows: key, value, or both with the expiration time. */
function showing(render: (entry: Entry) => Rows): Procedure {
  return onCursor(async (cursor, { input }) => render(await cursor.get(input.has('step'))));
}

const whole = ({ key, value, xtMs }: Entry): Rows => [['key', key], ...recordRows('value', value, xtMs)];

function matching(find: (search: Search, call: Call) => readonly Buffer[] | Promise<readonly Buffer[]>): Procedure {
  return {
    order: 'alone',
    run: async (call) => {
      const { input, host, session } = call;
      const { commands, slices } = host;
      const database = databaseOf(input, commands);
      const search = { commands, slices, database, max: maxOf(input), isWanted: session.isOpen };
      const keys = await find(search, call);
      commands.counts.misc++;
      return await matchRows(keys, call);
    },
  };
}

/** Each key with its place among the matches; many keys make many rows, so this gives way too. */
function matchRows(keys: readonly Buffer[], { host: { slices }, session }: Call): Rows | Promise<Rows> {
  const rows: Row[] = [];
  return slices.run(() => {
    for (const end = Math.min(keys.length, rows.length + STEP_ROWS); rows.length < end; ) {
      rows.push(row(`_${(keys[rows.length] as Buffer).toString('latin1')}`, rows.length));
    }
    if (rows.length < keys.length) return undefined;
    rows.push(row('num', keys.length));
    return rows;
  }, session.isOpen);
}

export const CURSOR_PROCEDURES: Readonly<Record<string, Procedure>> = {
  cur_jump: moving(async (cursor, { input }) => await cursor.jump(input.get('key'))),
  cur_jump_back: moving(async (cursor, { input }) => await cursor.jumpBack(input.get('key'))),
  cur_step: moving(async (cursor) => await cursor.step()),
  cur_step_back: moving(async (cursor) => await cursor.stepBack()),
  cur_set_value: moving(async (cursor, { input, nowMs }) => {
    const value = required(input, 'value');
    await cursor.setValue({ value, xtMs: expiryOf(input, nowMs) }, input.has('step'));
  }),
  cur_remove: moving(async (cursor) => await cursor.seize()),
  cur_get_key: showing(({ key }) => [['key', key]]),
  cur_get_value: showing(({ value }) => [['value', value]]),
  cur_get: showing(whole),
  cur_seize: onCursor(async (cursor) => whole(await cursor.seize())),
  cur_delete: {
    order: 'alone',
    run: (call) => {
      const id = cursorId(call);
      if (id !== undefined && call.session.deleteCursor(id)) return NOTHING;
      // The reference knows this procedure for cursors it has, and for nothing else.
      throw new TokaidoError('NOT_IMPLEMENTED', 'not implemented: cur_delete');
    },
  },
  match_prefix: matching(
    async (search, { input }) => await matchPrefix(search, required(input, 'prefix'), input.get('after')),
  ),
  match_regex: matching(async (search, { input }) => await matchRegex(search, required(input, 'regex'))),
  match_similar: matching(async (search, { input }) => {
    const origin = required(input, 'origin');
    const range = countOf(input, 'range', 1);
    return await matchSimilar(search, origin, range < 0 ? 1 : range, input.has('utf'));
  }),
};
