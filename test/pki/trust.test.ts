/** The verdict on a chain costs little, whatever a stranger presents; what leads to an authority is found all the same. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { describe, it } from 'node:test';
import { newKeys } from '../../src/pki/ca/ca.js';
import { keySigner } from '../../src/pki/signer.js';
import { Trust } from '../../src/pki/trust.js';
import { buildCertificate } from '../../src/pki/x509.js';

const nowMs = Date.now();
const NAMES = { uri: [], dns: [], ip: [] };

/** CAs of one name and one key, each of which has signed every other; and a leaf that each of them has signed. */
async function tangle(count: number): Promise<{ cas: X509Certificate[]; leaf: X509Certificate }> {
  const keys = newKeys();
  const signer = keySigner(keys.privateKey);
  const dates = { notBeforeMs: nowMs - 1000, notAfterMs: nowMs + 86_400_000 };
  const fields = { ...dates, commonName: 'tangle', publicKey: keys.publicKey, names: NAMES, pathLength: 5 };
  const serial = (index: number): string => (index + 16).toString(16);
  const first = new X509Certificate(await buildCertificate({ ...fields, serial: serial(0) }, signer, undefined));
  const cas = [first];
  for (let index = 1; index < count; index++)
    cas.push(new X509Certificate(await buildCertificate({ ...fields, serial: serial(index) }, signer, first)));
  const own = { ...fields, commonName: 'leaf', publicKey: newKeys().publicKey, pathLength: undefined };
  const leaf = new X509Certificate(await buildCertificate({ ...own, serial: '7f' }, signer, first));
  return { cas, leaf };
}

describe('the verdict on a chain', () => {
  it('comes soon when all that a stranger presents has signed all of it', async () => {
    const { cas, leaf } = await tangle(13);
    const startedMs = performance.now();
    assert.equal(new Trust([]).fault([leaf, ...cas], nowMs), 'untrusted-ca');
    assert.ok(performance.now() - startedMs < 1000, 'there are 13 to the power of 5 ways through them');
  });

  it('finds the one way to an authority among many', async () => {
    const { cas, leaf } = await tangle(8);
    const [authority, ...others] = cas as [X509Certificate, ...X509Certificate[]];
    assert.equal(new Trust([authority]).fault([leaf, ...others], nowMs), undefined);
    assert.equal(new Trust([authority]).fault([leaf], nowMs), undefined);
    const { leaf: stranger } = await tangle(1);
    assert.equal(
      new Trust([authority]).fault([stranger, ...others], nowMs),
      'untrusted-ca',
      'the name alone is nothing',
    );
  });
});
