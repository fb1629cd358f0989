/** The update log for `tokaido log`: what it has, and cutting it by hand. */
import { z } from 'zod';
import { TokaidoError } from '../../base/errors.js';
import { localNumber } from '../../base/types.js';
import { describePosition } from '../../log/position.js';
import type { LocalStore } from '../../store/store.js';

/** Batches in one answer, at most. */
const MOST_BATCHES = 10_000;

const listQuery = z.strictObject({
  from: z.coerce.number().int().positive().default(1),
  limit: z.coerce.number().int().positive().max(MOST_BATCHES).default(100),
});
const trimQuery = z
  .strictObject({
    keepBytes: z.coerce.number().int().nonnegative().optional(),
    keepMs: z.coerce.number().int().nonnegative().optional(),
  })
  .refine(({ keepBytes, keepMs }) => keepBytes !== undefined || keepMs !== undefined);

function read<T>(schema: z.ZodType<T>, query: URLSearchParams): T {
  const parsed = schema.safeParse(Object.fromEntries(query));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new TokaidoError(
    'CONFIG',
    `${issue?.path.join('.') || 'the request'}: ${issue?.message ?? 'is not understood'}`,
  );
}

export interface ListedBatch {
  readonly first: number;
  readonly count: number;
  readonly bytes: number;
  readonly time: string;
  /** Position in front of it. */
  readonly position: string;
}

/** `from` and `limit` of the query choose. Errors: `CONFIG`. */
export function listLog(
  store: LocalStore,
  query: URLSearchParams,
): { readonly next: number; readonly batches: ListedBatch[] } {
  const { from, limit } = read(listQuery, query);
  const batches = store.log.list(localNumber(from), limit).map(({ first, count, bytes, timeMs, before }) => {
    return { first, count, bytes, time: new Date(timeMs).toISOString(), position: describePosition(before) };
  });
  return { next: store.log.next, batches };
}

/** `keepBytes` and `keepMs` of the query say what stays. Errors: `CONFIG`, `STORAGE`. */
export async function trimLog(
  store: LocalStore,
  query: URLSearchParams,
): Promise<{ first: number; next: number; bytes: number }> {
  const { keepBytes = Number.POSITIVE_INFINITY, keepMs = Number.POSITIVE_INFINITY } = read(trimQuery, query);
  await store.trimLog({ bytes: keepBytes, ageMs: keepMs });
  const { first, next } = store.log;
  return { first, next, bytes: store.statistics().logBytes };
}
