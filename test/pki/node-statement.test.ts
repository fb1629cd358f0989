/** Statements of nodes: who signed one, and that nobody on the way can make or change one. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoError } from '../../src/base/errors.js';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { loadNodeIdentity, type NodeIdentity } from '../../src/pki/identity.js';
import { encodeStatement, isStatement, MAX_STATEMENT_BYTES, openStatement } from '../../src/pki/node-statement.js';

const DAY_MS = 86_400_000;
const nowMs = Date.now();

describe('a statement of a node', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tokaido-statement-'));
  let root: NodeIdentity;
  let relay: NodeIdentity;
  let stranger: NodeIdentity;

  async function issue(ca: string, role: 'root' | 'relay', name: string): Promise<NodeIdentity> {
    const out = join(folder, `${ca}-${name}`);
    await issueCertificate({ ca: join(folder, ca), out, role, name, days: 30, dns: [], ip: [], nowMs });
    const [certificate, key, trust] = ['node.crt', 'node.key', 'ca.crt'].map((file) => join(out, file));
    return loadNodeIdentity({ certificate, key, ca: trust } as Parameters<typeof loadNodeIdentity>[0], nowMs);
  }

  before(async () => {
    for (const name of ['ca', 'other']) await createCa({ folder: join(folder, name), name, days: 365, nowMs });
    root = await issue('ca', 'root', 'root');
    relay = await issue('ca', 'relay', 'relay-1');
    stranger = await issue('other', 'relay', 'relay-1');
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  const isRefused = (code: string) => (error: unknown) => error instanceof TokaidoError && error.code === code;

  it('says what it says, and who signed it', async () => {
    const bytes = await encodeStatement('hello', relay);
    assert.ok(isStatement(bytes));
    const { text, signer } = openStatement(bytes, root, nowMs);
    assert.equal(text, 'hello');
    assert.deepEqual(signer, relay.identity);
  });

  it('is refused when its certificate is of another cluster, or does not count any more', async () => {
    const other = await encodeStatement('hello', stranger);
    assert.throws(() => openStatement(other, root, nowMs), isRefused('IDENTITY'));
    const own = await encodeStatement('hello', relay);
    assert.throws(() => openStatement(own, root, nowMs + 31 * DAY_MS), /expired/);
  });

  it('is refused when its signature is that of another key', async () => {
    // The certificate of the one, the key of the other.
    const forged = await encodeStatement('hello', { ...relay, keyPem: root.keyPem });
    assert.throws(() => openStatement(forged, root, nowMs), /in the name of relay-1 is not signed by it/);
  });

  it('is refused, never misread, when any of it was changed', async () => {
    const bytes = await encodeStatement('hello', relay);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, by) => {
        const changed = Buffer.from(bytes);
        changed[at] = (changed[at] as number) ^ by;
        try {
          // What does not matter (white space in PEM, say) may change.
          assert.equal(openStatement(changed, root, nowMs).text, 'hello');
        } catch (error) {
          assert.ok(error instanceof TokaidoError && /^(IDENTITY|MALFORMED)$/.test(error.code), String(error));
        }
      }),
      { numRuns: 300 },
    );
  });

  it('is bounded, and nothing else that nodes ask begins like one', () => {
    assert.throws(() => openStatement(Buffer.alloc(MAX_STATEMENT_BYTES + 1), root, nowMs), isRefused('MALFORMED'));
    for (const text of ['', '{}', '{"body":"{}"}', 'tokaido request 1\n{}']) {
      assert.ok(!isStatement(Buffer.from(text)), text);
      assert.throws(() => openStatement(Buffer.from(text), root, nowMs), isRefused('MALFORMED'));
    }
  });
});
