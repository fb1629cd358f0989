/** The quantities that must never be mixed up, as branded types, and the few shapes every layer shares. */

declare const brand: unique symbol;
type Brand<T, B extends string> = T & { readonly [brand]: B };

/** Server id of an origin: 1 to 65535. */
export type Sid = Brand<number, 'Sid'>;
/** Number of a transaction of one origin: 1, 2, 3, ... without gaps within an epoch. */
export type Sequence = Brand<number, 'Sequence'>;
/** Incarnation of an origin's numbering: grows only when an origin restarts without knowing its own tail. */
export type Epoch = Brand<number, 'Epoch'>;
/** Number of a transaction in this node's own log: 1, 2, 3, ... whatever its origin. */
export type LocalNumber = Brand<number, 'LocalNumber'>;
/** Hybrid logical time stamp: nanoseconds since 1970, strictly growing per origin. */
export type VersionNs = Brand<bigint, 'VersionNs'>;

export const sid = (n: number): Sid => n as Sid;
export const sequence = (n: number): Sequence => n as Sequence;
export const epoch = (n: number): Epoch => n as Epoch;
export const localNumber = (n: number): LocalNumber => n as LocalNumber;
export const versionNs = (n: bigint): VersionNs => n as VersionNs;

/** How far one origin's changes have been applied: its last transaction, and that transaction's version. */
export interface OriginPosition {
  readonly sid: Sid;
  readonly epoch: Epoch;
  readonly sequence: Sequence;
  readonly versionNs: VersionNs;
}

/** A position: one entry per origin ever seen, ordered by sid. */
export type Position = readonly OriginPosition[];

/**
 * What an acknowledged write has survived: `committed` survives the process, `flushed` survives the power.
 * See invariant 5 in docs/architecture.md.
 */
export type Durability = 'committed' | 'flushed';

/** Expiration time of a record that never expires. Expiration times are milliseconds since 1970. */
export const NEVER_EXPIRES = 0;
