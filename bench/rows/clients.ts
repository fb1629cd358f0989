/** Single requests and bulk requests of clients, against Kyoto Tycoon, memcached and Redis. */

import { freePort } from '../../test/support/postgres.js';
import type { Exchange } from '../load/exchange.js';
import { load } from '../load/start.js';
import {
  DATABASES,
  type DatabaseKind,
  startKyotoTycoon,
  startMemcached,
  startOurs,
  startRedis,
} from '../peers/servers.js';
import type { Server } from '../processes.js';
import type { Row, Side, Stage } from '../row.js';

const RECORDS = 100_000;
const VALUE_BYTES = 32;

/** How the load comes. */
interface Manner {
  readonly exchange: Exchange;
  readonly connections: number;
  readonly depth: number;
}

export async function fill(
  server: Server,
  exchange: Exchange,
  records = RECORDS,
  valueBytes = VALUE_BYTES,
): Promise<void> {
  const depth = exchange === 'bulk-set' ? 1 : 100;
  await load<'drive'>({
    kind: 'drive',
    port: server.port,
    exchange,
    connections: 2,
    depth,
    records,
    valueBytes,
    until: 'all',
  });
}

function side(name: string, server: Server, manner: Manner): Side {
  return {
    name,
    measure: async (seconds) => {
      const job = { kind: 'drive', port: server.port, records: RECORDS, valueBytes: VALUE_BYTES, ...manner } as const;
      const { perSecond } = await load<'drive'>({ ...job, until: { seconds } });
      return { '': perSecond };
    },
  };
}

interface Versus {
  readonly name: string;
  readonly about: string;
  readonly unit?: string;
  readonly database: DatabaseKind;
  readonly manner: Manner;
  readonly peer: (stage: Stage) => Promise<Side | undefined>;
}

function row({ name, about, unit = 'requests/s', database, manner, peer }: Versus): Row {
  return {
    name,
    about,
    figures: [{ name: '', unit, better: 'higher' }],
    open: async (stage) => {
      const ours = await startOurs(stage, DATABASES[database]);
      await fill(ours, 'bulk-set');
      return { ours: side('Tokaido', ours, manner), peer: await peer(stage) };
    },
  };
}

function kyotoTycoon(database: DatabaseKind, manner: Manner): (stage: Stage) => Promise<Side | undefined> {
  return async (stage) => {
    const server = await startKyotoTycoon(stage, DATABASES[database]);
    if (server === undefined) return undefined;
    await fill(server, 'bulk-set');
    return side('Kyoto Tycoon', server, manner);
  };
}

function redis(manner: Manner): (stage: Stage) => Promise<Side | undefined> {
  return async (stage) => {
    const server = await startRedis(stage);
    if (server === undefined) return undefined;
    await fill(server, 'redis-set');
    return side('Redis', server, manner);
  };
}

const SINGLE = { connections: 32, depth: 1 } as const;
const BULKS = { connections: 2, depth: 1 } as const;
const PIPELINED = { connections: 32, depth: 100 } as const;
const KINDS = Object.keys(DATABASES) as DatabaseKind[];

const SINGLES = (['rest-get', 'rest-set', 'rpc-get', 'rpc-set'] as const).flatMap((exchange) =>
  KINDS.map((database) => {
    const manner = { exchange, ...SINGLE };
    const about = `${exchange.replace('-', ' ')}, 32 connections kept alive, ${DATABASES[database]}`;
    return row({ name: `${exchange}-${database}`, about, database, manner, peer: kyotoTycoon(database, manner) });
  }),
);

const BULK_ROWS = (['bulk-get', 'bulk-set'] as const).flatMap((exchange) =>
  KINDS.map((database) => {
    const manner = { exchange, ...BULKS };
    const about = `binary ${exchange.slice(5)}_bulk of 100 records, 2 connections, ${DATABASES[database]}`;
    const peer = kyotoTycoon(database, manner);
    return row({ name: `${exchange}-${database}`, about, unit: 'records/s', database, manner, peer });
  }),
);

const REDIS_ROWS = (['get', 'set'] as const).flatMap((what) => [
  row({
    name: `redis-${what}`,
    about: `REST ${what}, 32 connections kept alive, against Redis in its own protocol`,
    database: 'memory',
    manner: { exchange: `rest-${what}`, ...SINGLE },
    peer: redis({ exchange: `redis-${what}`, ...SINGLE }),
  }),
  row({
    name: `redis-${what}-pipelined`,
    about: `REST ${what} pipelined by 100, 32 connections, against Redis in its own protocol`,
    database: 'memory',
    manner: { exchange: `rest-${what}`, ...PIPELINED },
    peer: redis({ exchange: `redis-${what}`, ...PIPELINED }),
  }),
  row({
    name: `redis-${what}-bulk`,
    about: `binary ${what}_bulk of 100, 32 connections, against Redis pipelined by 100`,
    unit: 'records/s',
    database: 'memory',
    manner: { exchange: `bulk-${what}`, connections: 32, depth: 1 },
    peer: redis({ exchange: `redis-${what}`, ...PIPELINED }),
  }),
]);

const MEMCACHED_ROWS = (['get', 'set'] as const).flatMap((what) =>
  (['memory', 'disk'] as const).map((database): Row => {
    const manner = { exchange: `memcached-${what}`, ...SINGLE } as const;
    return {
      name: `memcached-${what}-${database}`,
      about: `memcached's ${what}, 32 connections, ${DATABASES[database]}, against memcached`,
      figures: [{ name: '', unit: 'requests/s', better: 'higher' }],
      open: async (stage) => {
        const port = await freePort();
        const ours = await startOurs(stage, DATABASES[database], ['--memcached', String(port)]);
        await fill(ours, 'bulk-set');
        const peer = await startMemcached(stage);
        if (peer !== undefined) await fill(peer, 'memcached-set');
        return {
          ours: side('Tokaido', { ...ours, port }, manner),
          peer: peer === undefined ? undefined : side('memcached', peer, manner),
        };
      },
    };
  }),
);

export const CLIENT_ROWS: readonly Row[] = [...SINGLES, ...BULK_ROWS, ...MEMCACHED_ROWS, ...REDIS_ROWS];
