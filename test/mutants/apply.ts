/** Plants a bug: a copy of the build with some texts exchanged, and seeds run on it in a process of its own. */
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { repository } from '../support/postgres.js';
import type { Edit, Mutant } from './mutants.js';

const RUN_SEEDS = join(dirname(fileURLToPath(import.meta.url)), 'run-seeds.js');
/** A mutant that hangs (its cluster's time stands still while its code runs in circles) is stopped after this. */
const MOST_MS = 240_000;

/** What the seeds made of a mutant. */
export type Verdict =
  | { readonly kind: 'caught'; readonly seed: number; readonly seeds: number; readonly how: string }
  | { readonly kind: 'survived'; readonly seeds: number };

/** The text with the edit made. Errors: when it does not occur exactly once. */
export function edited(text: string, { file, from, to }: Edit): string {
  const found = text.split(from).length - 1;
  if (found !== 1) throw new Error(`${file} has this text ${found} times, not once: ${from}`);
  return text.replace(from, () => to);
}

/** Runs up to `seeds` seeds from `firstSeed` on the mutant, until one fails. */
export async function hunt(
  mutant: Pick<Mutant, 'edits' | 'scenario'>,
  firstSeed: number,
  seeds: number,
  signal?: AbortSignal,
): Promise<Verdict> {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-mutant-'));
  try {
    cpSync(join(repository(), 'dist', 'src'), join(folder, 'dist', 'src'), { recursive: true });
    symlinkSync(join(repository(), 'node_modules'), join(folder, 'node_modules'));
    writeFileSync(join(folder, 'package.json'), '{"type":"module","version":"0.0.0"}');
    for (const edit of mutant.edits) {
      const path = join(folder, 'dist', 'src', edit.file);
      writeFileSync(path, edited(readFileSync(path, 'utf8'), edit));
    }
    const { scenario = '' } = mutant;
    return await runSeeds(
      [join(folder, 'dist', 'src', 'sim', 'simulate.js'), `${firstSeed}`, `${seeds}`, scenario],
      signal,
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function runSeeds(args: readonly string[], signal?: AbortSignal): Promise<Verdict> {
  const [, first, seeds] = args;
  const child = spawn(process.execPath, [RUN_SEEDS, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: MOST_MS,
    killSignal: 'SIGKILL',
    ...(signal === undefined ? {} : { signal }),
  });
  let said = '';
  let complaint = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    complaint += chunk.toString();
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  if (code === 0) return JSON.parse(said) as Verdict;
  const lines = complaint.trim().split('\n');
  const how = code === null ? 'it hangs' : `it ends: ${lines.find((line) => /Error/.test(line)) ?? lines.at(-1)}`;
  return { kind: 'caught', seed: Number(first), seeds: Number(seeds), how };
}
