/**
 * The database that the cluster keeps for itself: revocation lists, and what nodes need of one another. It travels as
 * every other database does (log, snapshot), to every node whatever its scope, and no client can name, list, read or
 * write it.
 */
export const RESERVED_DATABASE = '.tokaido';

export function isReserved(name: string): boolean {
  return name.startsWith(RESERVED_DATABASE);
}
