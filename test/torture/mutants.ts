/** Torture of the simulation itself: plants one known bug after the other, and each must be caught by some seed, or test. */
import { ACCESS_MUTANTS } from '../mutants/access-mutants.js';
import { hunt, isCaughtByTest } from '../mutants/apply.js';
import { MUTANTS } from '../mutants/mutants.js';
import type { Torture, TortureOptions, TortureResult } from './torture.js';

/** Seeds that a mutant may survive before it counts as not found. */
const MOST_SEEDS = 2000;

async function run({ seed, report, signal }: TortureOptions): Promise<TortureResult> {
  const caught: Record<string, string> = {};
  let runs = 0;
  let failed = 0;
  for (const mutant of MUTANTS) {
    if (signal.aborted) break;
    const verdict = await hunt(mutant, seed, MOST_SEEDS, signal);
    runs++;
    if (verdict.kind === 'caught')
      caught[mutant.name] = `after ${verdict.seeds} seeds (${verdict.seed}): ${verdict.how}`;
    else {
      failed++;
      report.failure(`${mutant.name} survived ${verdict.seeds} seeds: ${mutant.about}`);
    }
    report.progress(`${runs} of ${MUTANTS.length} mutants, ${failed} not caught`);
  }
  for (const mutant of ACCESS_MUTANTS) {
    if (signal.aborted) break;
    runs++;
    if (await isCaughtByTest(mutant, signal)) {
      caught[mutant.name] = `by ${mutant.file}`;
      continue;
    }
    failed++;
    report.failure(`${mutant.name} survived ${mutant.file}: ${mutant.about}`);
  }
  return { runs, failed, ...caught };
}

export const mutants: Torture = {
  name: 'mutants',
  about:
    'Known bugs planted one by one in a copy of the build: the simulation (however long it takes) or a test must catch each.',
  run,
};
