/** The planted bugs still fit the code, and the quickest of them are caught: `npm run torture -- mutants` hunts all. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { repository } from '../support/postgres.js';
import { ACCESS_MUTANTS, type AccessMutant } from './access-mutants.js';
import { edited, hunt, isCaughtByTest } from './apply.js';
import { MUTANTS } from './mutants.js';

const QUICK = ['ack-before-durable', 'lost-tail-unnoticed', 'heartbeat-covered-early'] as const;
const QUICK_ACCESS = ['certificate-scope-ignored', 'revocation-ignored-on-open-links'] as const;
const SEEDS = 60;
/** A scenario comes to its point with every seed, or nearly. */
const PLAYED = 3;

describe('planted bugs', () => {
  it('each fits the code as it is built, in one place, and has a name of its own', () => {
    const all = [...MUTANTS, ...ACCESS_MUTANTS];
    for (const { edits } of all) {
      for (const edit of edits) edited(readFileSync(join(repository(), 'dist', 'src', edit.file), 'utf8'), edit);
    }
    assert.equal(new Set(all.map(({ name }) => name)).size, all.length);
  });

  for (const name of QUICK) {
    it(`the simulation catches ${name}`, async () => {
      const mutant = MUTANTS.find((each) => each.name === name);
      assert.ok(mutant !== undefined);
      const verdict = await hunt(mutant, 1, SEEDS);
      assert.equal(verdict.kind, 'caught', JSON.stringify(verdict));
      assert.match(verdict.kind === 'caught' ? verdict.how : '', /^invariant [1-9]/);
    });
  }

  for (const mutant of MUTANTS.filter(({ scenario }) => scenario !== undefined)) {
    it(`the scenario ${mutant.scenario} catches ${mutant.name}`, async () => {
      const verdict = await hunt(mutant, 1, PLAYED);
      assert.equal(verdict.kind, 'caught', JSON.stringify(verdict));
      assert.match(verdict.kind === 'caught' ? verdict.how : '', /^invariant [1-9]/);
    });
  }

  for (const name of QUICK_ACCESS) {
    const mutant = ACCESS_MUTANTS.find((each) => each.name === name) as AccessMutant;
    it(`${mutant.file} catches ${mutant.name}`, async () => {
      assert.ok(await isCaughtByTest(mutant), `it survived: ${mutant.about}`);
    });
  }

  it('a build without any passes those tests', async () => {
    for (const mutant of ACCESS_MUTANTS.filter(({ name }) => QUICK_ACCESS.some((each) => each === name))) {
      assert.ok(!(await isCaughtByTest({ ...mutant, edits: [] })), mutant.name);
    }
  });
});
