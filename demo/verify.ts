/** The verdict: every record of every edge against Postgres, both ways. */
import type pg from 'pg';
import { TokaidoClient } from '../src/client/client.js';

export interface Verdict {
  /** Records that Postgres has and the edge lacks. */
  missing: number;
  /** Records whose value differs, or whose row is gone. */
  wrong: number;
  /** Records compared. */
  compared: number;
}

const PAGE = 500;

/** What Postgres says should be there, by database. Rows about to expire are left out of the comparison. */
export async function expected(
  sql: pg.Client,
): Promise<readonly [Map<string, Buffer>, Map<string, Buffer>, Set<string>]> {
  const dns = await sql.query<{ key: string; data: string }>(
    `SELECT zone || '/' || name || '/' || type AS key, data FROM dns_records`,
  );
  const tickets = await sql.query<{ id: number; key: Buffer; left: number }>(
    `SELECT id, key, extract(epoch FROM expires_at - now())::float8 AS left FROM session_ticket_keys`,
  );
  const soon = new Set(tickets.rows.filter(({ left }) => Math.abs(left) < 10).map(({ id }) => String(id)));
  const live = tickets.rows.filter(({ id, left }) => left > 0 && !soon.has(String(id)));
  return [
    new Map(dns.rows.map(({ key, data }) => [key, Buffer.from(data)])),
    new Map(live.map(({ id, key }) => [String(id), key])),
    soon,
  ];
}

/** Compares one edge; `everUsed` are all keys that ever existed, so that records whose row is gone are found too. */
export async function verifyEdge(
  clientPort: number,
  [dns, tickets, soon]: Awaited<ReturnType<typeof expected>>,
  everUsed: readonly ReadonlySet<string>[],
): Promise<Verdict> {
  const client = new TokaidoClient({ server: `127.0.0.1:${clientPort}` });
  const verdict: Verdict = { missing: 0, wrong: 0, compared: 0 };
  try {
    for (const [database, wanted] of [dns, tickets].entries()) {
      const keys = [...new Set([...wanted.keys(), ...(everUsed[database] ?? [])])].filter(
        (key) => database === 0 || !soon.has(key),
      );
      for (let at = 0; at < keys.length; at += PAGE) {
        const page = keys.slice(at, at + PAGE);
        const found = await client.getBulk(page, database);
        for (const key of page) compare(wanted.get(key), found.get(key), verdict);
      }
    }
  } finally {
    client.close();
  }
  return verdict;
}

function compare(wanted: Buffer | undefined, found: Buffer | undefined, verdict: Verdict): void {
  verdict.compared++;
  if (wanted === undefined) {
    if (found !== undefined) verdict.wrong++;
  } else if (found === undefined) verdict.missing++;
  else if (!wanted.equals(found)) verdict.wrong++;
}
