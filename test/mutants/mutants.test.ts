/** The planted bugs still fit the code, and the quickest of them are caught: `npm run torture -- mutants` hunts all. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { repository } from '../support/postgres.js';
import { edited, hunt } from './apply.js';
import { MUTANTS } from './mutants.js';

const QUICK = ['ack-before-durable', 'lost-tail-unnoticed', 'heartbeat-covered-early'] as const;
const SEEDS = 60;
/** A scenario comes to its point with every seed, or nearly. */
const PLAYED = 3;

describe('planted bugs', () => {
  it('each fits the code as it is built, in one place, and has a name of its own', () => {
    for (const { edits } of MUTANTS) {
      for (const edit of edits) edited(readFileSync(join(repository(), 'dist', 'src', edit.file), 'utf8'), edit);
    }
    assert.equal(new Set(MUTANTS.map(({ name }) => name)).size, MUTANTS.length);
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
});
