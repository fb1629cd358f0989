/** Torture of whole clusters in this process: seed after seed, each a cluster with its own faults (`src/sim`). */
import { type Outcome, simulate } from '../../src/sim/simulate.js';
import { clock, type Torture, type TortureOptions, type TortureResult } from './torture.js';

/** Lines of a failed run that are shown. */
const SHOWN = 80;
/** Seeds are 32-bit numbers. */
const SEEDS = 2 ** 32;

/** What happened, with the nodes' own logs: the seed does it again. */
async function explain({ seed, violation }: Outcome): Promise<string> {
  const lines: string[] = [];
  await simulate(seed, (line) => lines.push(line));
  const again = `npm run torture -- simulate --seconds 1 --seed ${seed}`;
  return [`seed ${seed} (${again})`, ...lines.slice(-SHOWN), violation?.stack ?? ''].join('\n');
}

async function run({ seconds, seed, report, signal }: TortureOptions): Promise<TortureResult> {
  const goesOn = clock({ seconds, signal });
  const startMs = performance.now();
  const total = { steps: 0, transactions: 0, acknowledged: 0, faults: 0, virtualMs: 0 };
  let runs = 0;
  let failed = 0;
  do {
    const outcome = await simulate((seed + runs) % SEEDS);
    runs++;
    for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += outcome[name];
    if (outcome.violation !== undefined) {
      failed++;
      report.failure(await explain(outcome));
    }
    report.progress(`${runs} seeds, ${failed} failed`);
  } while (goesOn());
  const seedsPerSecond = Math.round((runs * 10_000) / (performance.now() - startMs)) / 10;
  return { runs, failed, seedsPerSecond, ...total };
}

export const simulation: Torture = {
  name: 'simulate',
  about: 'Whole clusters in one process on virtual time, under crashes, power cuts, partitions, slow and full disks.',
  run,
};
