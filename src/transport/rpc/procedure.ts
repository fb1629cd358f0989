/** What a remote procedure is: the shape that every entry of the table has, and the rows it answers with. */
import { NEVER_EXPIRES } from '../../base/types.js';
import { secondsFromXt } from '../../protocol/expiry.js';
import type { HttpReply } from '../../protocol/http.js';
import type { Arguments, Row } from '../../protocol/tsv.js';
import type { RpcHost, RpcSession } from './session.js';

export type Rows = readonly Row[];

/** One call, understood. */
export interface Call {
  readonly input: Arguments;
  readonly session: RpcSession;
  readonly host: RpcHost;
  readonly nowMs: number;
}

/**
 * What may overlap on one connection. Writes may overlap writes: they commit in the order they were started, and share
 * commits. A read is done at once and sees the writes before it. What stands alone takes its time and holds back
 * everything that comes after it.
 */
export type Order = 'read' | 'write' | 'alone';

export interface Procedure {
  readonly order: Order;
  /** Rows of a success, or a whole reply. Errors: `TokaidoError`, thrown or as rejection. */
  run(call: Call): Rows | HttpReply | Promise<Rows | HttpReply>;
}

export const NOTHING: Rows = [];

export function row(name: string, value: string | number | bigint): Row {
  return [name, Buffer.from(String(value), 'latin1')];
}

/** The record's row, and that of its expiration time when it has one. */
export function recordRows(name: string, value: Buffer, xtMs: number): Rows {
  return xtMs === NEVER_EXPIRES ? [[name, value]] : [[name, value], row('xt', secondsFromXt(xtMs))];
}
