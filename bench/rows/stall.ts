/** How readers fare while others write large values: what made Kyoto Tycoon's users leave. */
import { load } from '../load/start.js';
import { DATABASES, type DatabaseKind, startKyotoTycoon, startOurs } from '../peers/servers.js';
import type { Server } from '../processes.js';
import type { Row, Side } from '../row.js';
import { fill } from './clients.js';

const RECORDS = 10_000;
const WRITERS = 2;
const WRITTEN_BYTES = 40_000;
/** The writers' records lie behind the readers'. */
const WRITTEN_RECORDS = 100;

function side(name: string, server: Server): Side {
  return {
    name,
    measure: async (seconds) => {
      const common = { kind: 'drive', port: server.port, depth: 1, until: { seconds } } as const;
      const [read, written] = await Promise.all([
        load<'drive'>({ ...common, exchange: 'rest-get', connections: 8, records: RECORDS, valueBytes: 0 }),
        load<'drive'>({
          ...common,
          exchange: 'rest-set',
          connections: WRITERS,
          records: WRITTEN_RECORDS,
          valueBytes: WRITTEN_BYTES,
        }),
      ]);
      return { 'read p99': read.p99Ms, 'read p50': read.p50Ms, reads: read.perSecond, writes: written.perSecond };
    },
  };
}

function row(database: DatabaseKind): Row {
  return {
    name: `stall-${database}`,
    about: `8 connections read while 2 write values of 40 kB, ${DATABASES[database]}`,
    figures: [
      { name: 'read p99', unit: 'ms', better: 'lower' },
      { name: 'read p50', unit: 'ms', better: 'lower' },
      { name: 'reads', unit: 'requests/s', better: 'higher' },
      { name: 'writes', unit: 'requests/s', better: 'higher' },
    ],
    open: async (stage) => {
      const ours = await startOurs(stage, DATABASES[database]);
      await fill(ours, 'bulk-set', RECORDS, 2);
      const theirs = await startKyotoTycoon(stage, DATABASES[database]);
      if (theirs !== undefined) await fill(theirs, 'bulk-set', RECORDS, 2);
      return { ours: side('Tokaido', ours), peer: theirs === undefined ? undefined : side('Kyoto Tycoon', theirs) };
    },
  };
}

export const STALL_ROWS: readonly Row[] = [row('memory'), row('disk')];
