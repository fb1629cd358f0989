/** A CA's folder is never half of anything: each command is killed before each of its changes, and run again. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createCa, issueCertificate, openCa } from '../../src/pki/ca/ca.js';
import { readRecords } from '../../src/pki/ca/records.js';
import { allCas, retireOld, rotateCa } from '../../src/pki/ca/rotation.js';
import { crlsOf } from '../../src/pki/crl.js';
import { loadNodeIdentity } from '../../src/pki/identity.js';
import { certificatesOf } from '../../src/pki/pem.js';
import { Trust } from '../../src/pki/trust.js';
import { tokaido } from '../support/cli.js';
import { cliPath } from '../support/cluster.js';

const killer = fileURLToPath(new URL('../support/kill-at-write.js', import.meta.url));
const nowMs = Date.now();
const LIMIT_MS = 60_000;
const MAX_CHANGES = 100;

let base: string;
before(() => (base = mkdtempSync(join(tmpdir(), 'tokaido-crash-'))));
after(() => rmSync(base, { recursive: true, force: true }));

interface Scene {
  /** What the folder is like before the command. */
  arrange(folder: string): Promise<void>;
  readonly command: (folder: string) => readonly string[];
  /** What the crash may have left of the CA that counted before. */
  still(folder: string): Promise<void> | void;
  /** When the command has run again and ended well. */
  done(folder: string): Promise<void> | void;
}

/** Whether the process was killed before it was done. */
async function killedAt(folder: string, parameters: readonly string[], change: number): Promise<boolean> {
  const env = { ...process.env, KILL_UNDER: folder, KILL_AT: String(change) };
  const child = spawn(process.execPath, ['--import', killer, cliPath(), ...parameters], { env, timeout: LIMIT_MS });
  let text = '';
  child.stderr.on('data', (chunk) => (text += chunk));
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (signal === 'SIGKILL') return true;
  assert.equal(code, 0, text);
  return false;
}

/** Kills before each change in turn, each time in a fresh copy; ends with the run that nobody killed. */
async function atEveryMoment({ arrange, command, still, done }: Scene): Promise<void> {
  const start = mkdtempSync(join(base, 'start-'));
  await arrange(start);
  let change = 1;
  for (; change < MAX_CHANGES; change++) {
    const folder = mkdtempSync(join(base, 'run-'));
    cpSync(start, folder, { recursive: true });
    const killed = await killedAt(folder, command(folder), change);
    if (!killed) break;
    await still(folder);
    const again = await tokaido(command(folder));
    assert.equal(again.code, 0, `killed before change ${change}: ${again.err}`);
    await done(folder);
    assert.deepEqual(leftovers(folder), [], `killed before change ${change}`);
    rmSync(folder, { recursive: true });
  }
  assert.ok(change > 3 && change < MAX_CHANGES, `killed at ${change} moments`);
}

const leftovers = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => /\.new$|step\.json$/.test(name));

const issue = async (folder: string, ca: string, name: string): Promise<void> => {
  const names = { dns: [], ip: [] };
  await issueCertificate({
    ca: join(folder, ca),
    out: join(folder, name),
    role: 'edge',
    name,
    days: 1,
    ...names,
    nowMs,
  });
};
const load = (folder: string, name: string) => {
  const at = (file: string): string => join(folder, name, file);
  return loadNodeIdentity({ certificate: at('node.crt'), key: at('node.key'), ca: at('ca.crt') }, nowMs);
};
const pki = (folder: string): string => join(folder, 'pki');
const trustOf = (folder: string, file: string): Trust =>
  new Trust(certificatesOf(readFileSync(join(folder, 'pki', file), 'utf8'), file));
const newCa = async (folder: string): Promise<void> => {
  await createCa({ folder: pki(folder), name: 'ours', days: 30, nowMs });
  await issue(folder, 'pki', 'before');
};

describe('a CA survives kill -9 at every moment of', () => {
  it('ca init: run again, it makes a CA', async () => {
    await atEveryMoment({
      arrange: async () => undefined,
      command: (folder) => ['ca', 'init', '--dir', pki(folder), '--name', 'ours'],
      still: () => undefined,
      done: async (folder) => {
        await issue(folder, 'pki', 'node');
        load(folder, 'node');
        assert.equal(statSync(join(pki(folder), 'ca.key')).mode & 0o777, 0o600);
      },
    });
  });

  it('ca intermediate: run again, it makes one that nodes of the root believe', async () => {
    await atEveryMoment({
      arrange: newCa,
      command: (folder) => ['ca', 'intermediate', '--ca', pki(folder), '--dir', join(folder, 'online'), '--days', '9'],
      still: async (folder) => await issue(folder, 'pki', 'meanwhile'),
      done: async (folder) => {
        await issue(folder, 'online', 'node');
        assert.equal(trustOf(folder, 'ca.crt').fault(load(folder, 'node').chain, nowMs), undefined);
        const { serialNumber } = openCa(join(folder, 'online')).certificate;
        assert.ok(
          readRecords(pki(folder)).some(({ serial }) => serial === serialNumber),
          'it can be revoked',
        );
      },
    });
  });

  it('ca issue: run again, it gives all that a node needs, and every certificate that exists is on record', async () => {
    await atEveryMoment({
      arrange: newCa,
      command: (folder) => {
        const names = ['--role', 'edge', '--name', 'node', '--days', '1'];
        return ['ca', 'issue', '--ca', pki(folder), ...names, '--out', join(folder, 'node')];
      },
      still: async (folder) => await issue(folder, 'pki', 'meanwhile'),
      done: (folder) => {
        const { serialNumber } = load(folder, 'node').chain[0] ?? {};
        assert.ok(readRecords(pki(folder)).some(({ serial }) => serial === serialNumber));
      },
    });
  });

  it('ca renew: the node can start at any moment', async () => {
    await atEveryMoment({
      arrange: newCa,
      command: (folder) => ['ca', 'renew', '--ca', pki(folder), '--node', join(folder, 'before'), '--days', '2'],
      still: (folder) => assert.equal(load(folder, 'before').identity.name, 'before'),
      done: (folder) => assert.ok(load(folder, 'before').notAfterMs > nowMs + 1.5 * 86_400_000),
    });
  });

  it('ca revoke: run again, the list has all of the name', async () => {
    await atEveryMoment({
      arrange: async (folder) => {
        await newCa(folder);
        const again = { ca: pki(folder), role: 'edge', name: 'before', days: 1, dns: [], ip: [], nowMs } as const;
        await issueCertificate({ ...again, out: join(folder, 'second') });
      },
      command: (folder) => ['ca', 'revoke', '--ca', pki(folder), '--name', 'before'],
      still: async (folder) => await issue(folder, 'pki', 'meanwhile'),
      done: (folder) => {
        const lists = crlsOf(readFileSync(join(pki(folder), 'ca.crl'), 'utf8'), 'list');
        for (const name of ['before', 'second'])
          assert.equal(trustOf(folder, 'ca.crt').with(lists).fault(load(folder, name).chain, nowMs), 'revoked');
      },
    });
  });

  it('ca rotate: before and after, certificates are issued that every node believes, and lists are signed', async () => {
    const works = async (folder: string, name: string): Promise<void> => {
      await issue(folder, 'pki', name);
      const [old, fresh] = [load(folder, 'before'), load(folder, name)];
      assert.equal(old.trust.fault(fresh.chain, nowMs), undefined);
      assert.equal(fresh.trust.fault(old.chain, nowMs), undefined);
    };
    await atEveryMoment({
      arrange: newCa,
      command: (folder) => ['ca', 'rotate', '--ca', pki(folder), '--name', 'second', '--json'],
      still: async (folder) => {
        // In a copy: a command that comes first would end what was begun.
        const copy = mkdtempSync(join(base, 'copy-'));
        cpSync(folder, copy, { recursive: true });
        await works(copy, 'meanwhile');
        rmSync(copy, { recursive: true });
      },
      done: async (folder) => {
        await works(folder, 'after');
        assert.equal(allCas(pki(folder)).length, 2);
        assert.equal(readdirSync(join(pki(folder), 'old')).length, 1);
        assert.equal((JSON.parse(readFileSync(join(pki(folder), 'trust.json'), 'utf8')).statements as []).length, 1);
      },
    });
  });

  it('ca rotate, when another command came first and ended it: rotate says what is left to do', async () => {
    const folder = mkdtempSync(join(base, 'other-'));
    await newCa(folder);
    const rotate = ['ca', 'rotate', '--ca', pki(folder), '--name', 'second'];
    // A file opened, renamed: what is to be done is written down.
    assert.ok(await killedAt(folder, rotate, 3));
    await issue(folder, 'pki', 'meanwhile');
    const again = await tokaido(rotate);
    assert.equal(again.code, 1);
    assert.match(
      again.err,
      /is being rotated already\nhint: renew every node, then end it: .*to tell the nodes again: curl/,
    );
  });

  it('ca rotate --retire: the new CA alone is believed in the end', async () => {
    await atEveryMoment({
      arrange: async (folder) => {
        await createCa({ folder: pki(folder), name: 'ours', days: 30, nowMs });
        await rotateCa({ folder: pki(folder), name: 'second', days: 30, nowMs });
        await issue(folder, 'pki', 'before');
      },
      command: (folder) => ['ca', 'rotate', '--ca', pki(folder), '--retire'],
      still: (folder) =>
        assert.equal(load(folder, 'before').trust.fault(load(folder, 'before').chain, nowMs), undefined),
      done: async (folder) => {
        await issue(folder, 'pki', 'after');
        assert.equal(load(folder, 'after').chain.length, 1);
        assert.equal(trustOf(folder, 'trust.crt').fault(load(folder, 'before').chain, nowMs), undefined);
        await assert.rejects(retireOld(pki(folder), { nowMs, force: false }), (error: { hint?: string }) => {
          return /it was ended already; to tell the nodes again/.test(error.hint ?? '');
        });
      },
    });
  });
});
