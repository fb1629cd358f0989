/** Plants a bug: a copy of the build with some texts exchanged, and seeds or a test run on it in a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { repository } from '../support/postgres.js';
import type { AccessMutant } from './access-mutants.js';
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
  const { scenario = '' } = mutant;
  return await planted(mutant, ['src'], async (build) => {
    return await runSeeds([join(build, 'src', 'sim', 'simulate.js'), `${firstSeed}`, `${seeds}`, scenario], signal);
  });
}

/** Whether the test that a mutant names fails on it: the test itself, not its file as a whole. */
export async function isCaughtByTest(mutant: AccessMutant, signal?: AbortSignal): Promise<boolean> {
  return await planted(mutant, ['src', 'test'], async (build) => {
    const pattern = mutant.test.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    // A test that fails may leave open what it would have closed.
    const flags = ['--test', '--test-force-exit', '--test-reporter=tap', `--test-name-pattern=${pattern}`];
    // The runner that this may be part of tells its children how to report.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const child = spawn(process.execPath, [...flags, join(build, 'test', mutant.file)], {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: MOST_MS,
      killSignal: 'SIGKILL',
      env,
      ...(signal === undefined ? {} : { signal }),
    });
    let said = '';
    child.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    await ended(child);
    const verdict = new RegExp(`^ *(not ok|ok) \\d+ - ${pattern}`, 'm').exec(said)?.[1];
    if (verdict === undefined) throw new Error(`${mutant.file} has no test that begins so: ${mutant.test}\n${said}`);
    return verdict === 'not ok';
  });
}

/** Runs something on a copy of these parts of the build with the mutant's edits made. */
async function planted<T>(
  { edits }: Pick<Mutant, 'edits'>,
  parts: readonly string[],
  run: (build: string) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-mutant-'));
  try {
    for (const part of parts) cpSync(join(repository(), 'dist', part), join(folder, 'dist', part), { recursive: true });
    symlinkSync(join(repository(), 'node_modules'), join(folder, 'node_modules'));
    writeFileSync(join(folder, 'package.json'), '{"type":"module","version":"0.0.0"}');
    for (const edit of edits) {
      const path = join(folder, 'dist', 'src', edit.file);
      writeFileSync(path, edited(readFileSync(path, 'utf8'), edit));
    }
    return await run(join(folder, 'dist'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function ended(child: ChildProcess): Promise<number | null> {
  return await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
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
  const code = await ended(child);
  if (code === 0) return JSON.parse(said) as Verdict;
  const lines = complaint.trim().split('\n');
  const how = code === null ? 'it hangs' : `it ends: ${lines.find((line) => /Error/.test(line)) ?? lines.at(-1)}`;
  return { kind: 'caught', seed: Number(first), seeds: Number(seeds), how };
}
