/**
 * Identity names: who a certificate says its holder is, as a URI in the subject's alternative names:
 * `tokaido://CLUSTER/ROLE/NAME`. Host names and addresses say where a machine is, these say what it may be, so replication
 * decides by them alone.
 */
import { TokaidoError } from '../base/errors.js';

/** What a certificate's holder is. A `ca` signs, a `client` only reads and writes through client listeners. */
export const ROLES = ['ca', 'root', 'relay', 'edge', 'client'] as const;
export type Role = (typeof ROLES)[number];

export interface Identity {
  /** 32 hex digits: the 16 random bytes made by `tokaido ca init`. */
  readonly clusterId: string;
  readonly role: Role;
  /** 1 to 63 of `a-z 0-9 . -`, beginning with a letter or digit. */
  readonly name: string;
}

const SCHEME = 'tokaido://';
const FORM = /^tokaido:\/\/([0-9a-f]{32})\/([a-z]+)\/([a-z0-9][a-z0-9.-]{0,62})$/;
const NAME = /^[a-z0-9][a-z0-9.-]{0,62}$/;

export function formatIdentity({ clusterId, role, name }: Identity): string {
  return `${SCHEME}${clusterId}/${role}/${name}`;
}

/** `undefined` when the text is not exactly an identity name. */
export function parseIdentity(uri: string): Identity | undefined {
  const [, clusterId, role, name] = FORM.exec(uri) ?? [];
  const known = ROLES.find((candidate) => candidate === role);
  return clusterId === undefined || name === undefined || known === undefined
    ? undefined
    : { clusterId, role: known, name };
}

/** Errors: `CONFIG`. */
export function checkName(name: string): string {
  if (NAME.test(name)) return name;
  throw new TokaidoError('CONFIG', `${JSON.stringify(name)} is not a valid name`, {
    hint: 'use 1 to 63 of a-z, 0-9, dot and dash, beginning with a letter or digit',
  });
}

/**
 * The identity in a certificate's alternative names, as Node prints them (`URI:tokaido://..., DNS:...`). Exactly one
 * name of ours must be there: with two, different readers could each believe another one.
 */
export function identityOf(subjectAltName: string | undefined): Identity | undefined {
  // Node quotes a value that holds a separator; such a name is never one of ours.
  const uris = (subjectAltName ?? '').split(', ').filter((name) => name.includes(SCHEME));
  if (uris.length !== 1) return undefined;
  const [uri] = uris;
  return uri?.startsWith('URI:') === true ? parseIdentity(uri.slice('URI:'.length)) : undefined;
}
