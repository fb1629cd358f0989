/** `npm run torture`: runs one torture for a time, from a seed. */
import { parseArgs } from 'node:util';
import { TORTURES } from './registry.js';
import type { Report, Torture } from './torture.js';

const HELP = `npm run torture -- NAME [options]

  --seconds N   about how long (30)
  --seed N      of every choice (a new one each time; it is printed)
  --json        print one JSON object as the last line: name, seed, seconds, runs, failed and more
  --list        what there is
  --help        this text

Exit code 0 when nothing failed, 1 when something did, 2 for wrong options.`;

const MOST = { seconds: 86_400, seed: 2 ** 32 - 1 } as const;

/** Wrong use of the command: a message, no stack. */
class UsageError extends Error {}

interface Options {
  readonly torture: Torture;
  readonly seconds: number;
  readonly seed: number;
  readonly json: boolean;
}

/** Least number of letters to insert, remove or change to make one text of the other. */
function distance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const changed = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(changed, (previous[j] as number) + 1, (row[j - 1] as number) + 1));
    }
    previous = row;
  }
  return previous[b.length] as number;
}

function find(name: string): Torture {
  const known = TORTURES.find((torture) => torture.name === name);
  if (known !== undefined) return known;
  const [nearest] = TORTURES.map((torture) => torture.name).sort((a, b) => distance(name, a) - distance(name, b));
  throw new UsageError(`there is no torture ${JSON.stringify(name)}: did you mean ${nearest}?`);
}

function readNumber(name: keyof typeof MOST, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text);
  const least = name === 'seed' ? 0 : 1;
  if (text === '' || !Number.isInteger(value) || value < least || value > MOST[name]) {
    throw new UsageError(
      `--${name} must be a whole number from ${least} to ${MOST[name]}, not ${JSON.stringify(text)}`,
    );
  }
  return value;
}

/** A text: what was asked for is that text. Errors: `UsageError`. */
function readOptions(): Options | string {
  const string = { type: 'string' } as const;
  const flag = { type: 'boolean', default: false } as const;
  const options = { seconds: string, seed: string, json: flag, list: flag, help: flag };
  let parsed: ReturnType<typeof parseArgs<{ options: typeof options; allowPositionals: true }>>;
  try {
    parsed = parseArgs({ options, allowPositionals: true });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const { values, positionals } = parsed;
  if (values.help) return HELP;
  const width = 2 + Math.max(...TORTURES.map(({ name }) => name.length));
  if (values.list) return TORTURES.map(({ name, about }) => `${name.padEnd(width)}${about}`).join('\n');
  const [name, ...more] = positionals;
  if (name === undefined || more.length > 0) throw new UsageError('name one torture');
  return {
    torture: find(name),
    seconds: readNumber('seconds', values.seconds, 30),
    seed: readNumber('seed', values.seed, Math.floor(Math.random() * 2 ** 32)),
    json: values.json,
  };
}

/** Progress over one line of a terminal; failures in full. */
function createReport(): Report & { done(): void } {
  const live = process.stderr.isTTY === true;
  const wipe = (): void => void (live && process.stderr.write('\r\x1b[K'));
  return {
    progress: (text) => {
      if (!live) return;
      wipe();
      process.stderr.write(text.slice(0, (process.stderr.columns ?? 80) - 1));
    },
    failure: (text) => {
      wipe();
      process.stderr.write(`FAILED: ${text}\n`);
    },
    done: wipe,
  };
}

async function run({ torture, seconds, seed, json }: Options): Promise<number> {
  const { name } = torture;
  const ending = new AbortController();
  // The first signal ends it in good order, so that no process and no folder stays behind; a second one does not wait.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => (ending.signal.aborted ? process.exit(1) : ending.abort()));
  }
  if (!json) process.stderr.write(`${name}: ${seconds} s from seed ${seed}\n`);
  const report = createReport();
  const { runs, failed, ...figures } = await torture.run({ seconds, seed, report, signal: ending.signal });
  report.done();
  const again = `npm run torture -- ${name} --seconds ${seconds} --seed ${seed}`;
  if (failed > 0) process.stderr.write(`to see it again: ${again}\n`);
  const ended = ending.signal.aborted ? { interrupted: true } : {};
  const result = { name, seed, seconds, runs, failed, ...figures, ...ended };
  if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
  else for (const [key, value] of Object.entries(result)) process.stdout.write(`${key.padEnd(20)}${show(value)}\n`);
  return failed > 0 || ending.signal.aborted ? 1 : 0;
}

function show(value: unknown): string {
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

try {
  const options = readOptions();
  if (typeof options === 'string') process.stdout.write(`${options}\n`);
  // What a torture left open (sockets that linger) must not keep the command from ending.
  else process.exit(await run(options));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`error: ${error.message}\n\n${HELP}\n`);
  process.exitCode = 2;
}
