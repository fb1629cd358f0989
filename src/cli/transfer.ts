/** `tokaido export` and `tokaido import`: whole databases out of and into a server, as text or straight across. */
import { createReadStream, createWriteStream, renameSync, rmSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Command, Option } from 'commander';
import { codeOf, messageOf, TokaidoError } from '../base/errors.js';
import { type BulkRecord, databaseNumber, walkRecords } from '../client/bulk.js';
import { TokaidoClient } from '../client/client.js';
import { BulkWriter } from '../client/writer.js';
import { encodeRecordLine, LINE_ENCODINGS, type LineEncoding, RecordLineDecoder } from '../protocol/record-lines.js';
import { ImportProgress } from './import-progress.js';
import { action, print, printJson } from './output.js';

interface Flags {
  readonly server: string;
  readonly database: string;
  readonly encoding: LineEncoding;
  readonly json?: boolean;
}

interface ExportFlags extends Flags {
  readonly output?: string;
}

interface ImportFlags extends Flags {
  readonly resume?: string;
  readonly from?: string;
  readonly fromDatabase?: string;
}

/** How long a server may take for one call. */
const TIMEOUT_MS = 60_000;
const PROGRESS_MS = 500;
/** Longest line: the largest value there is, three characters a byte. */
const LINE_BYTES = 256 * 1024 * 1024;

/** Says how far it is, on a terminal only. */
class Progress {
  records = 0;
  bytes = 0;
  readonly #startMs = performance.now();
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(what: string) {
    if (!process.stderr.isTTY) return;
    this.#timer = setInterval(() => process.stderr.write(`\r${what} ${this.describe()}\x1b[K`), PROGRESS_MS);
  }

  count({ key, value }: { readonly key: Buffer; readonly value?: Buffer }): void {
    this.records++;
    this.bytes += key.length + (value?.length ?? 0);
  }

  get seconds(): number {
    return (performance.now() - this.#startMs) / 1000;
  }

  describe(): string {
    const perSecond = Math.round(this.records / Math.max(this.seconds, 0.001));
    return `${this.records} records, ${(this.bytes / 2 ** 20).toFixed(1)} MiB, ${perSecond} records/s`;
  }

  end(): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    process.stderr.write('\r\x1b[K');
  }
}

function clientOf(server: string): TokaidoClient {
  return new TokaidoClient({ server, timeoutMs: TIMEOUT_MS });
}

/** Lines into a file that has its name only once it is whole, or to standard output. Errors: `STORAGE`. */
async function writeLines(lines: AsyncIterable<Buffer>, path: string | undefined): Promise<void> {
  if (path === undefined) {
    await drain(lines, process.stdout, 'standard output');
    return;
  }
  const partial = `${path}.partial`;
  try {
    await drain(lines, createWriteStream(partial, { mode: 0o600 }), path);
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
}

async function drain(lines: AsyncIterable<Buffer>, to: Writable, name: string): Promise<void> {
  try {
    await pipeline(lines, to, { end: to !== process.stdout });
  } catch (error) {
    if (error instanceof TokaidoError) throw error;
    throw new TokaidoError('STORAGE', `cannot write ${name}: ${messageOf(error)}`, {
      hint: 'nothing is kept of an export that did not end: free space or mend the pipe, and export again',
      cause: error,
    });
  }
}

async function exportRecords({ server, database, encoding, output, json }: ExportFlags): Promise<void> {
  if (json === true && output === undefined)
    throw new TokaidoError('CONFIG', '--json needs --output: standard output has the records');
  const client = clientOf(server);
  const progress = new Progress('exported');
  async function* lines(): AsyncGenerator<Buffer> {
    for await (const records of walkRecords(client, database)) {
      for (const record of records) progress.count(record);
      yield Buffer.from(records.map((record) => encodeRecordLine(encoding, record)).join(''), 'latin1');
    }
  }
  try {
    await writeLines(lines(), output);
  } finally {
    progress.end();
    client.close();
  }
  report('exported', progress, json, output !== undefined);
}

function report(verb: string, progress: Progress, json: boolean | undefined, mayPrint: boolean): void {
  const seconds = Math.round(progress.seconds * 1000) / 1000;
  if (json === true) printJson({ [verb]: progress.records, bytes: progress.bytes, seconds });
  else if (mayPrint && process.stdout.isTTY) print(`${verb} ${progress.describe()}`);
}

async function importRecords(file: string | undefined, flags: ImportFlags): Promise<void> {
  if ((file === undefined) === (flags.from === undefined))
    throw new TokaidoError('CONFIG', 'give a file to import from (- is standard input), or --from HOST:PORT');
  const resume = resumeOf(file, flags);
  const client = clientOf(flags.server);
  const progress = new Progress('imported');
  try {
    const writer = new BulkWriter(client, await databaseNumber(client, flags.database));
    if (file !== undefined) await importFile(file, flags, { writer, progress, resume });
    else await importServer(flags.from as string, flags.fromDatabase ?? '0', { writer, progress, resume });
    await writer.end();
    resume?.remove();
  } finally {
    progress.end();
    client.close();
  }
  report('imported', progress, flags.json, true);
}

/** What records go through. */
interface Import {
  readonly writer: BulkWriter;
  readonly progress: Progress;
  readonly resume: ImportProgress | undefined;
}

/** Errors: `CONFIG`. */
function resumeOf(file: string | undefined, flags: ImportFlags): ImportProgress | undefined {
  const { resume, server, database, encoding, from, fromDatabase = '0' } = flags;
  if (resume === undefined) return undefined;
  if (file === '-')
    throw new TokaidoError('CONFIG', '--resume needs a file or a server: standard input cannot be begun in the middle');
  const source = file === undefined ? `${from} ${fromDatabase}` : `${resolve(file)} ${encoding}`;
  return new ImportProgress(resume, `${source} to ${server} ${database}`);
}

async function importFile(
  file: string,
  { encoding }: ImportFlags,
  { writer, progress, resume }: Import,
): Promise<void> {
  const saved = resume?.position;
  const start = saved !== undefined && 'bytes' in saved ? saved : { bytes: 0, lines: 0 };
  if (start.bytes > 0 && start.bytes > statSync(file).size)
    throw new TokaidoError('CONFIG', `${file} is shorter than it was when the import stopped`);
  const decoder = new RecordLineDecoder(encoding, LINE_BYTES, start.lines);
  const take = async (line: ReturnType<RecordLineDecoder['end']>): Promise<void> => {
    if (line === undefined) return;
    progress.count(line);
    if (line.kind === 'set') await writer.set(line);
    else await writer.remove(line.key);
  };
  const source = file === '-' ? process.stdin : createReadStream(file, { start: start.bytes });
  try {
    for await (const chunk of source) {
      for (const line of decoder.push(chunk as Buffer)) await take(line);
      if (resume?.isDue !== true) continue;
      await writer.end();
      resume.save({ bytes: start.bytes + decoder.bytes, lines: decoder.lines });
    }
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'EACCES')
      throw new TokaidoError('CONFIG', `cannot read ${file}: ${messageOf(error)}`, { cause: error });
    throw error;
  }
  await take(decoder.end());
}

async function importServer(from: string, database: string, { writer, progress, resume }: Import): Promise<void> {
  const source = clientOf(from);
  const saved = resume?.position;
  // The last record is written once more: it is where the cursor of the server finds its place again.
  const start = saved !== undefined && 'key' in saved ? { startKey: Buffer.from(saved.key, 'base64') } : {};
  let found = false;
  try {
    for await (const records of walkRecords(source, database, start)) {
      found = true;
      for (const record of records as readonly BulkRecord[]) {
        progress.count(record);
        await writer.set(record);
      }
      const last = records.at(-1);
      if (resume?.isDue !== true || last === undefined) continue;
      await writer.end();
      resume.save({ key: last.key.toString('base64') });
    }
    // A database that is not in order knows a place by its record only.
    if (!found && saved !== undefined)
      throw new TokaidoError('CONFLICT', `${from} no longer has the record at which this import stopped`, {
        hint: 'remove the file of --resume and begin from the beginning',
      });
  } finally {
    source.close();
  }
}

function withFlags(command: Command): Command {
  return command
    .option('--server <host:port>', 'client listener of a node, or of a Kyoto Tycoon server', '127.0.0.1:1978')
    .option('--database <name>', 'database, by name or number', '0')
    .addOption(
      new Option('--encoding <form>', 'of keys and values in the text; raw cannot hold tabs and line feeds')
        .choices(LINE_ENCODINGS)
        .default('url'),
    )
    .option('--json', 'print one JSON object');
}

export function registerTransfer(program: Command): void {
  withFlags(program.command('export').description('write all records of a database as text, one a line'))
    .option('--output <file>', 'file to write; it has this name once it is whole (default: standard output)')
    .addHelpText(
      'after',
      `
A line is key, value and, when the record expires, seconds since 1970, separated by tabs. Records that change meanwhile
may be in it as they were or as they are.

Examples:
  tokaido export --database casket.kct --output casket.tsv
  tokaido export --server old-kt:1978 --encoding hex | ktremotemgr import -sx`,
    )
    .action(action(exportRecords));
  withFlags(
    program
      .command('import')
      .description('write records into a database, from text or from another server')
      .argument('[file]', 'lines as export writes them; - is standard input'),
  )
    .option('--from <host:port>', 'client listener of the node or Kyoto Tycoon server to copy from')
    .option('--from-database <name>', 'its database, by name or number (default: 0)')
    .option('--resume <file>', 'note there how far it is, and go on from there if it exists; gone when all is imported')
    .addHelpText(
      'after',
      `
Records that are there already are overwritten, others stay. One that broke off is begun again: writing a record twice
changes nothing. With --resume it goes on where it was. A line of one column removes that key.

Examples:
  tokaido import casket.tsv --database casket.kct
  tokaido import casket.tsv --database casket.kct --resume casket.progress
  tokaido import --from old-kt:1978 --from-database 1 --database casket.kct`,
    )
    .action(action(importRecords));
}
