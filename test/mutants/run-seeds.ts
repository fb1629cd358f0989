/**
 * `run-seeds.js MODULE FIRST COUNT [SCENARIO]`: runs seeds, or a scenario, with the simulation of a given build until one
 * fails; says so as JSON.
 */
import { pathToFileURL } from 'node:url';
import type { simulate as Simulate } from '../../src/sim/simulate.js';

const [module = '', first = '', count = '', scenario = ''] = process.argv.slice(2);
const { simulate } = (await import(pathToFileURL(module).href)) as { simulate: typeof Simulate };

let verdict: object = { kind: 'survived', seeds: Number(count) };
for (let i = 0; i < Number(count); i++) {
  const seed = Number(first) + i;
  const { violation } = await simulate(seed, undefined, scenario === '' ? undefined : scenario);
  if (violation === undefined) continue;
  verdict = { kind: 'caught', seed, seeds: i + 1, how: violation.message.split('\n')[0] };
  break;
}
process.stdout.write(JSON.stringify(verdict), () => process.exit(0));
