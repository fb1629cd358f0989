/** The options of the demonstration. */
import { parseArgs } from 'node:util';

export const HELP = `npm run demo -- [options]

  --edges N     edges (30)
  --relays N    relays (2)
  --rate N      row changes per second (500)
  --seconds N   how long to write (20)
  --seed N      of the workload (1)
  --json        print one JSON object as the last line, and no live view
  --keep        leave the folders, and say where
  --help        this text

Exit code 0 only if every record on every edge equals Postgres at the end; 1 if not, 2 for wrong options.`;

export interface Options {
  readonly edges: number;
  readonly relays: number;
  readonly rate: number;
  readonly seconds: number;
  readonly seed: number;
  readonly json: boolean;
  readonly keep: boolean;
}

/** Wrong use of the command: a message, no stack. */
export class UsageError extends Error {}

/** Most of each: beyond it one machine shows nothing. */
const MOST = { edges: 200, relays: 20, rate: 20_000, seconds: 3600, seed: 2 ** 32 - 1 } as const;

/** Errors: `UsageError`. `undefined` when only the help was asked for. */
export function readOptions(): Options | undefined {
  const string = { type: 'string' } as const;
  const flag = { type: 'boolean', default: false } as const;
  const options = {
    edges: string,
    relays: string,
    rate: string,
    seconds: string,
    seed: string,
    json: flag,
    keep: flag,
    help: flag,
  };
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];
  try {
    values = parseArgs({ options }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) return undefined;
  const number = (name: keyof typeof MOST, fallback: number): number => {
    const text = values[name];
    const value = text === undefined ? fallback : Number(text);
    if (text === '' || !Number.isInteger(value) || value < 1 || value > MOST[name])
      throw new UsageError(`--${name} must be a whole number from 1 to ${MOST[name]}, not ${JSON.stringify(text)}`);
    return value;
  };
  return {
    edges: number('edges', 30),
    relays: number('relays', 2),
    rate: number('rate', 500),
    seconds: number('seconds', 20),
    seed: number('seed', 1),
    json: values.json,
    keep: values.keep,
  };
}
