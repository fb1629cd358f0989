/**
 * What a database is made of, as the operator wrote it: a plain name (on disk, ordered), or an expression as ktserver
 * takes them (`:`, `%#bnum=100k`, `*#capsiz=64m`, `casket.kct#opts=c`), after Kyoto Cabinet's polymorphic database and
 * Kyoto Tycoon's options on top of it. A name says where records lie and what clients may expect of their order; all
 * else about a database is the same for every kind.
 */
import { TokaidoError } from '../base/errors.js';
import { isReserved, RESERVED_DATABASE } from './reserved.js';

/** Where records lie. Those in memory are rebuilt at start from a background snapshot and the update log. */
export type Storage = 'disk' | 'memory';

export interface DatabaseSpec {
  /** What clients call it: the last part of the expression's path. Unique on a node. */
  readonly name: string;
  readonly storage: Storage;
  /** Whether clients may count on key order and walk backwards. Ours always are in order; the reference's are not. */
  readonly ordered: boolean;
  /** Kyoto Cabinet's number of the kind, which clients are told. */
  readonly typeCode: number;
  /** The least recently used records go when there are more. */
  readonly maxRecords: number | undefined;
  /** Likewise, when keys and values take more bytes. */
  readonly maxBytes: number | undefined;
  /** Records never expire: expiration times are dropped (`ktopts=p`). */
  readonly persistent: boolean;
  /** Values are compressed where they lie (`opts=c`). */
  readonly compressed: boolean;
  /** Values are encrypted on the disk (`encryption.databases`). */
  readonly encrypted: boolean;
  /** File whose lines are the records, as the operator wrote its path; a root loads it at start. */
  readonly textFile: string | undefined;
  /** Parts of the expression that mean nothing here: accepted, and named once in the log. */
  readonly withoutEffect: readonly string[];
}

interface Kind extends Pick<DatabaseSpec, 'storage' | 'ordered' | 'typeCode'> {
  readonly isText?: true;
}

const PHASH: Kind = { storage: 'memory', ordered: false, typeCode: 0x10 };
/** Kyoto Cabinet's number of `+`. */
export const PROTO_TREE = 0x11;
const PTREE: Kind = { storage: 'memory', ordered: true, typeCode: PROTO_TREE };
const STASH: Kind = { storage: 'memory', ordered: false, typeCode: 0x18 };
const CACHE: Kind = { storage: 'memory', ordered: false, typeCode: 0x20 };
const GRASS: Kind = { storage: 'memory', ordered: true, typeCode: 0x21 };
const HASH: Kind = { storage: 'disk', ordered: false, typeCode: 0x30 };
const TREE: Kind = { storage: 'disk', ordered: true, typeCode: 0x31 };
const DIRECTORY: Kind = { storage: 'disk', ordered: false, typeCode: 0x40 };
const FOREST: Kind = { storage: 'disk', ordered: true, typeCode: 0x41 };
const TEXT: Kind = { storage: 'disk', ordered: true, typeCode: 0x50, isText: true };

/** File names that stand for a kind by themselves. */
const SIGNS: Readonly<Record<string, Kind>> = {
  '-': PHASH,
  '+': PTREE,
  ':': STASH,
  '*': CACHE,
  '%': GRASS,
};

/** Suffixes of file names, and values of the option `type`. */
const KINDS: Readonly<Record<string, Kind>> = {
  kcph: PHASH,
  phdb: PHASH,
  phash: PHASH,
  kcpt: PTREE,
  ptdb: PTREE,
  ptree: PTREE,
  kcs: STASH,
  sdb: STASH,
  stash: STASH,
  kcc: CACHE,
  cdb: CACHE,
  cache: CACHE,
  kcg: GRASS,
  gdb: GRASS,
  grass: GRASS,
  kch: HASH,
  hdb: HASH,
  hash: HASH,
  kct: TREE,
  tdb: TREE,
  tree: TREE,
  kcd: DIRECTORY,
  ddb: DIRECTORY,
  dir: DIRECTORY,
  directory: DIRECTORY,
  kcf: FOREST,
  fdb: FOREST,
  for: FOREST,
  forest: FOREST,
  kcx: TEXT,
  xdb: TEXT,
  txt: TEXT,
  text: TEXT,
  tsv: TEXT,
  csv: TEXT,
};

const NAME = /^[A-Za-z0-9_.-]{1,128}$/;
const UNITS: Readonly<Record<string, number>> = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

function kindOf(file: string, type: string | undefined, expression: string): Kind {
  const bySign = SIGNS[file];
  const suffix = file.includes('.') ? file.slice(file.lastIndexOf('.') + 1) : '';
  const wanted = type ?? (Object.hasOwn(KINDS, suffix) ? suffix : undefined);
  if (wanted !== undefined) {
    const kind = SIGNS[wanted] ?? (Object.hasOwn(KINDS, wanted) ? KINDS[wanted] : undefined);
    if (kind !== undefined) return kind;
    throw new TokaidoError('CONFIG', `database ${expression}: there is no type ${wanted}`, {
      hint: 'leave the option out, or give one of stash, cache, grass, hash, tree',
    });
  }
  if (bySign !== undefined) return bySign;
  if (NAME.test(file)) return TREE;
  throw new TokaidoError('CONFIG', `database ${JSON.stringify(expression)} has no name that could be used`, {
    hint: 'give 1 to 128 of A-Z a-z 0-9 _ . - or one of the signs : * % + -',
  });
}

/** A number with an optional binary unit, as the reference reads it. */
function amount(option: string, text: string, expression: string): number {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)([kmgt])?i?b?$/i.exec(text) ?? [];
  if (digits === undefined) {
    throw new TokaidoError('CONFIG', `database ${expression}: ${option} must be a number such as 64m, not ${text}`);
  }
  return Math.floor(Number(digits) * (UNITS[unit?.toLowerCase() ?? ''] ?? 1));
}

/** Options under the names that the reference takes for the same thing. */
const OPTION_NAMES: Readonly<Record<string, 'type' | 'records' | 'bytes' | 'opts' | 'ktopts'>> = {
  type: 'type',
  capcnt: 'records',
  capcount: 'records',
  cap_count: 'records',
  ktcapcnt: 'records',
  ktcapcount: 'records',
  ktcap_count: 'records',
  capsiz: 'bytes',
  capsize: 'bytes',
  cap_size: 'bytes',
  ktcapsiz: 'bytes',
  ktcapsize: 'bytes',
  ktcap_size: 'bytes',
  opts: 'opts',
  options: 'opts',
  ktopts: 'ktopts',
  ktoptions: 'ktopts',
};

/** Errors: `CONFIG`. */
export function parseDatabase(expression: string): DatabaseSpec {
  const [path = '', ...parts] = expression.split('#');
  const file = path.slice(path.lastIndexOf('/') + 1);
  const options = new Map<string, string>();
  const withoutEffect: string[] = [];
  for (const part of parts) {
    const at = part.indexOf('=');
    const option = at < 0 ? undefined : OPTION_NAMES[part.slice(0, at)];
    if (option === undefined) withoutEffect.push(part);
    else options.set(option, part.slice(at + 1));
  }
  if (isReserved(file)) {
    throw new TokaidoError('CONFIG', `database ${expression}: names that begin with ${RESERVED_DATABASE} are reserved`);
  }
  const { isText, ...kind } = kindOf(file, options.get('type'), expression);
  const cap = (option: 'records' | 'bytes'): number | undefined => {
    const text = options.get(option);
    const most = text === undefined ? 0 : amount(option, text, expression);
    if (most === 0) return undefined;
    if (kind.storage === 'memory') return most;
    withoutEffect.push(`a capacity in ${option} (only databases in memory are caches)`);
    return undefined;
  };
  if (path.includes('/') && isText !== true)
    withoutEffect.push(`the folder of ${path} (records lie in the data directory)`);
  return {
    name: file,
    ...kind,
    maxRecords: cap('records'),
    maxBytes: cap('bytes'),
    persistent: options.get('ktopts')?.includes('p') ?? false,
    compressed: options.get('opts')?.includes('c') ?? false,
    encrypted: false,
    textFile: isText === true ? path : undefined,
    withoutEffect,
  };
}

/**
 * Several expressions, in the order of Kyoto Tycoon's numbers. The reference lets two databases share a name (two `:`)
 * and then knows the second by its number alone; replication needs a name for each, so later ones get `~2`, `~3`.
 */
export function parseDatabases(expressions: readonly string[]): readonly DatabaseSpec[] {
  const names = new Map<string, number>();
  return expressions.map((expression) => {
    const spec = parseDatabase(expression);
    const nth = (names.get(spec.name) ?? 0) + 1;
    names.set(spec.name, nth);
    return nth === 1 ? spec : { ...spec, name: `${spec.name}~${nth}` };
  });
}
