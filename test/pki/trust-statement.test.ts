/** Whom to believe, as it travels: who can change it, and who cannot. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { createCa, createIntermediate, openCa } from '../../src/pki/ca/ca.js';
import { retireOld, rotateCa, statementsPath } from '../../src/pki/ca/rotation.js';
import { certificatesOf } from '../../src/pki/pem.js';
import {
  believedAfter,
  parseStatement,
  type SignedStatement,
  signStatement,
  type TrustStatement,
} from '../../src/pki/trust-statement.js';
import { OpensslCa } from '../support/openssl.js';

describe('statements of whom to believe', () => {
  let folder: string;
  const nowMs = Date.now();
  const at = (...names: string[]): string => join(folder, ...names);
  const pem = (...names: string[]): string => readFileSync(at(...names), 'utf8');
  const cas = (text: string) => certificatesOf(text, 'test');
  const names = (certificates: readonly { readonly fingerprint256: string }[]): string[] => {
    return certificates.map(({ fingerprint256 }) => fingerprint256);
  };
  let clusterId: string;

  const read = (ca: string): TrustStatement[] => {
    const { statements } = JSON.parse(readFileSync(statementsPath(at(ca)), 'utf8')) as {
      statements: SignedStatement[];
    };
    return statements.map((one) => parseStatement(JSON.stringify(one)));
  };
  const believed = (statements: readonly TrustStatement[], from: string): string[] => {
    return names(believedAfter(statements, cas(from), { ownCluster: clusterId, nowMs }));
  };

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-trust-'));
    ({ clusterId } = await createCa({ folder: at('pki'), name: 'first', days: 30, nowMs }));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** Two whole rotations. */
  async function rotateTwice(): Promise<{
    first: string;
    second: string;
    third: string;
    statements: TrustStatement[];
  }> {
    const first = pem('pki', 'ca.crt');
    await rotateCa({ folder: at('pki'), name: 'second', days: 30, nowMs });
    await retireOld(at('pki'), { nowMs, force: false });
    const second = pem('pki', 'trust.crt');
    await rotateCa({ folder: at('pki'), name: 'third', days: 30, nowMs });
    await retireOld(at('pki'), { nowMs, force: false });
    return { first, second, third: pem('pki', 'trust.crt'), statements: read('pki') };
  }

  it('lead from any CA of the cluster to the newest, whatever was missed, in any order, any number of times', async () => {
    const { first, second, third, statements } = await rotateTwice();
    assert.deepEqual(
      statements.map(({ number }) => number),
      [1, 2, 3, 4],
    );
    for (const from of [first, second, third, `${second}${first}`])
      assert.deepEqual(believed([...statements].reverse(), from), names(cas(third)));
    assert.deepEqual(believed(statements.slice(0, 1), first), names(cas(`${second}${first}`)));
    assert.deepEqual(believed(statements.slice(0, 3), first), names(cas(`${third}${second}`)));
  });

  it('do not bring back a CA that is not believed any more', async () => {
    const { second, third, statements } = await rotateTwice();
    assert.deepEqual(believed(statements.slice(0, 2), third), names(cas(third)));
    assert.deepEqual(believed(statements.slice(0, 1), second), names(cas(second)));
  });

  it('do not take out a newer CA that came by hand, while its predecessor still signs for them', async () => {
    await rotateCa({ folder: at('pki'), name: 'second', days: 30, nowMs });
    await retireOld(at('pki'), { nowMs, force: false });
    const published = read('pki');
    await rotateCa({ folder: at('pki'), name: 'third', days: 30, nowMs: nowMs + 5000 });
    const byHand = pem('pki', 'trust.crt');
    assert.equal(cas(byHand).length, 2);
    assert.deepEqual(believed(published, byHand), names(cas(byHand)));
    assert.deepEqual(believed(read('pki'), byHand), names(cas(byHand)));
  });

  it('leave CAs that are not of the cluster where they are', async () => {
    const { first, third, statements } = await rotateTwice();
    const other = readFileSync(OpensslCa.create(at('openssl'), 'other').certificate, 'utf8');
    assert.deepEqual(believed(statements, `${other}${first}`), names(cas(`${third}${other}`)));
  });

  it('count by nobody but a CA that is believed: not an intermediate, not another CA, not changed, not elsewhere', async () => {
    const first = pem('pki', 'ca.crt');
    await createIntermediate({ folder: at('online'), name: 'online', days: 10, nowMs }, openCa(at('pki')));
    await createCa({ folder: at('other'), name: 'other', days: 30, nowMs });
    const own = openCa(at('pki'));
    await rotateCa({ folder: at('pki'), name: 'second', days: 30, nowMs });
    const authorities = pem('pki', 'trust.crt');
    const body = { number: 1, clusterId, authorities };
    const parsed = async (...from: Parameters<typeof signStatement>) =>
      parseStatement(JSON.stringify(await signStatement(...from)));
    assert.notDeepEqual(believed([await parsed(body, own.signer)], first), names(cas(first)));
    const wrong = [
      await parsed(body, openCa(at('online')).signer),
      await parsed(body, openCa(at('other')).signer),
      { ...(await parsed({ ...body, number: 2 }, own.signer)), signature: (await parsed(body, own.signer)).signature },
    ];
    for (const statement of wrong) assert.deepEqual(believed([statement], first), names(cas(first)));
    const elsewhere = { ownCluster: '0'.repeat(32), nowMs };
    const right = await parsed(body, own.signer);
    assert.deepEqual(names(believedAfter([right], cas(first), elsewhere)), names(cas(first)));
    // The signature of a token's statement, say, is of other bytes.
    const bare = await own.signer.sign(Buffer.from(right.statement));
    const taken = { ...right, signature: bare.toString('base64') };
    assert.deepEqual(believed([taken], first), names(cas(first)));
  });

  it('are refused when they name what is no root of the cluster, or are no statements', async () => {
    await createIntermediate({ folder: at('online'), name: 'online', days: 10, nowMs }, openCa(at('pki')));
    await createCa({ folder: at('other'), name: 'other', days: 30, nowMs });
    const { signer } = openCa(at('pki'));
    const own = pem('pki', 'ca.crt');
    for (const authorities of [pem('online', 'ca.crt'), pem('other', 'ca.crt'), '', own.repeat(9)]) {
      const signed = await signStatement({ number: 1, clusterId, authorities }, signer);
      assert.throws(() => parseStatement(JSON.stringify(signed)), { code: 'MALFORMED' });
    }
    for (const number of [0, -1, 1.5, '1'] as number[]) {
      const signed = await signStatement({ number, clusterId, authorities: own }, signer);
      assert.throws(() => parseStatement(JSON.stringify(signed)), { code: 'MALFORMED' });
    }
    for (const text of ['', '{}', '[]', 'null', '{"statement":"{}","signature":""}', 'x'.repeat(70_000)])
      assert.throws(() => parseStatement(text), { code: 'MALFORMED' });
  });
});
