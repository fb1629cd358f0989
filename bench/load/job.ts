/** What a load process can be told to do, and what it tells back. */
import type { Exchange } from './exchange.js';

/** Requests over some connections, each with `depth` of them on the way, for a time or until all records were named. */
export interface DriveJob {
  readonly kind: 'drive';
  readonly port: number;
  readonly exchange: Exchange;
  readonly connections: number;
  readonly depth: number;
  /** Records that exist, or that are written. */
  readonly records: number;
  readonly valueBytes: number;
  /** How long; or each record once, in order. */
  readonly until: { readonly seconds: number } | 'all';
}

export interface DriveResult {
  /** Records read or written per second. */
  readonly perSecond: number;
  readonly seconds: number;
  /** Of an answer, ms. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** Single writes to one server, and how long until another one answers with them. */
export interface HopJob {
  readonly kind: 'hop';
  readonly protocol: 'rest' | 'redis';
  readonly writePort: number;
  readonly readPort: number;
  readonly seconds: number;
}

export interface HopResult {
  readonly samples: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export interface Jobs {
  readonly drive: { readonly job: DriveJob; readonly result: DriveResult };
  readonly hop: { readonly job: HopJob; readonly result: HopResult };
}

export type Job = Jobs[keyof Jobs]['job'];
