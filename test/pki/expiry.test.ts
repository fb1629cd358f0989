/** What ends by itself is said early: CAs above a certificate, a certificate that nobody renews, a list that is late. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { NodeCertificates } from '../../src/node/certificates/certificates.js';
import { ExpiryWatch } from '../../src/node/certificates/expiry-watch.js';
import { createCa, createIntermediate, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { rotateCa } from '../../src/pki/ca/rotation.js';
import { loadNodeIdentity } from '../../src/pki/identity.js';
import { localRuntime } from '../support/local-runtime.js';

const DAY_MS = 86_400_000;

describe('what a certificate stands on', () => {
  let folder: string;
  const nowMs = Date.now();
  const at = (...names: string[]): string => join(folder, ...names);
  const files = (name: string) => ({
    certificate: at(name, 'node.crt'),
    key: at(name, 'node.key'),
    ca: at(name, 'ca.crt'),
  });
  const daysLeft = (name: string): number => {
    const { trust, chain } = loadNodeIdentity(files(name), nowMs);
    return Math.round(((trust.endsMs(chain) ?? 0) - nowMs) / DAY_MS);
  };
  const issue = async (ca: string, name: string, days: number): Promise<void> => {
    await issueCertificate({ ca: at(ca), out: at(name), role: 'edge', name, days, dns: [], ip: [], nowMs });
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-expiry-'));
    await createCa({ folder: at('pki'), name: 'root', days: 100, nowMs });
    await createIntermediate({ folder: at('online'), name: 'online', days: 20, nowMs }, openCa(at('pki')));
    await issue('pki', 'direct', 5);
    await issue('online', 'below', 5);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('ends with the first of the CAs above it, on the path that lasts longest', async () => {
    assert.equal(daysLeft('direct'), 100);
    assert.equal(daysLeft('below'), 20);
    await rotateCa({ folder: at('pki'), name: 'second', days: 300, nowMs });
    await issue('pki', 'after', 5);
    // Over the bridge it would end with the old CA.
    assert.equal(daysLeft('after'), 300);
    const { trust } = loadNodeIdentity(files('direct'), nowMs);
    assert.equal(
      Math.round(((trust.endsMs(loadNodeIdentity(files('after'), nowMs).chain) ?? 0) - nowMs) / DAY_MS),
      100,
    );
  });

  function said(name: string, atMs: number, renews: boolean): string[] {
    const warnings: string[] = [];
    const log = { ...silentLogger, warn: (_: object, message: string) => void warnings.push(message) };
    const runtime = localRuntime({ nowMs: () => atMs, every: () => ({ cancel: () => undefined }) });
    const config = { identity: { ...files(name), crl: undefined, renew: renews }, role: 'edge', name } as const;
    const certificates = new NodeCertificates({ config, runtime, log: silentLogger });
    new ExpiryWatch({ certificates, renews, runtime, log }).close();
    certificates.close();
    return warnings;
  }

  it('is warned of: a CA a month before, a certificate that nobody renews in its last quarter', () => {
    assert.deepEqual(said('direct', nowMs, true), []);
    assert.match(said('below', nowMs, true).join(), /a CA that this certificate stands on ends soon/);
    assert.deepEqual(said('direct', nowMs + 4.5 * DAY_MS, true), []);
    assert.match(said('direct', nowMs + 4.5 * DAY_MS, false).join(), /this node does not renew it/);
  });
});
