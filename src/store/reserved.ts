/**
 * The database that the cluster keeps for itself: revocation lists, and what nodes need of one another. It travels as
 * every other database does (log, snapshot), and no client can name, list, read or write it. Followers with a scope get
 * what is for every node, and nothing else of it.
 */
export const RESERVED_DATABASE = '.tokaido';

/** Keys of what is for every node, whatever its scope: revocation lists. */
export const FOR_EVERY_NODE = 'crl/';

export function isReserved(name: string): boolean {
  return name.startsWith(RESERVED_DATABASE);
}
