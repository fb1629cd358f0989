/**
 * The database that the cluster keeps for itself: revocation lists, which CAs count, where nodes are reached, and what
 * else they need of one another. It travels as every other database does (log, snapshot), and no client can name, list,
 * read or write it. Followers with a scope get what is for every node, and nothing else of it.
 */
export const RESERVED_DATABASE = '.tokaido';

/** Keys of revocation lists. */
export const LIST_KEYS = 'crl/';
/** Keys of statements which CAs count. */
export const TRUST_KEYS = 'trust/';
/** Keys of what nodes announce: where their followers reach them. */
export const NODE_KEYS = 'nodes/';
/** Keys of what is for every node, whatever its scope. */
export const FOR_EVERY_NODE: readonly string[] = [LIST_KEYS, NODE_KEYS, TRUST_KEYS];

export function isReserved(name: string): boolean {
  return name.startsWith(RESERVED_DATABASE);
}
