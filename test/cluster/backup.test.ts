/** Programs of the operator's on a copy of a database: what clients may have run, what it gets, and how it is bounded. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { silentLogger } from '../../src/base/logger.js';
import { TokaidoClient } from '../../src/client/client.js';
import { BackupCommands } from '../../src/node/data/backup-commands.js';
import type { LocalStore } from '../../src/store/store.js';
import { json, tokaido } from '../support/cli.js';
import { eventually, localRuntime } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';
import { StoreBench } from '../support/store-model.js';

const text = (value: string): Buffer => Buffer.from(value, 'latin1');

describe('a backup that a client asks for', () => {
  let folder: string;
  const ends: (() => Promise<void>)[] = [];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-backup-'));
    mkdirSync(join(folder, 'commands'));
  });
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
    rmSync(folder, { recursive: true, force: true });
  });

  const program = (name: string, script: string): void => {
    writeFileSync(join(folder, 'commands', name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  };
  const path = (name: string): string => join(folder, name);

  describe('through `synchronize`', () => {
    it('gives the program a file named as the database, which `tokaido import` reads, and a time stamp', async () => {
      program('copy', `cp "$1" "${path('copied')}" && echo "$1 $2" > "${path('given')}"`);
      const port = await freePort();
      const flags = ['--port', String(port), '--admin', '0', '--data', 'data', '--commands', 'commands'];
      const node = await ServedNode.start([...flags, '--db', 'casket.kct', '--db', ':', '--db', 'new.kct'], folder);
      ends.push(async () => await node.stop());
      const client = new TokaidoClient({ server: `127.0.0.1:${port}` });
      ends.push(async () => client.close());
      const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
      const xtMs = 4_102_444_800_000;
      const records = Array.from({ length: 5000 }, (_, i) => [`k${i}`, `v${i}`] as const);
      for (const database of [0, 1]) {
        await client.setBulk([...records, [all, all, xtMs], ['gone', '1']], database);
        await client.removeBulk(['gone'], database);
      }

      for (const [database, name] of [
        ['0', 'casket.kct'],
        ['1', ':'],
      ] as const) {
        assert.equal((await client.call('synchronize', { command: 'copy', DB: database })).status, 200, node.log);
        const [given = '', timestamp = ''] = readFileSync(path('given'), 'latin1').trim().split(' ');
        assert.equal(given, join(folder, 'data', 'backup', name));
        assert.match(timestamp, /^0\d{19}$/);
        assert.ok(Math.abs(Number(timestamp) / 1e6 - Date.now()) < 60_000);
        assert.equal(existsSync(given), false, 'the copy is gone');
        const parameters = ['import', path('copied'), '--server', `127.0.0.1:${port}`, '--database', 'new.kct'];
        const imported = await tokaido([...parameters, '--json']);
        assert.equal(json(imported).imported, records.length + 1, imported.err);
        const texts = await Promise.all(
          [name, 'new.kct'].map(async (of) => {
            return (await tokaido(['export', '--server', `127.0.0.1:${port}`, '--database', of])).out.toString();
          }),
        );
        assert.deepEqual(texts[1]?.split('\n').sort(), texts[0]?.split('\n').sort());
      }
      const { status, rows } = await client.call('synchronize', { command: '../commands/copy' });
      assert.deepEqual(
        [status, rows.get('ERROR')?.toString()],
        [500, 'DB: 8: logical inconsistency: postprocessing failed'],
      );
    });
  });

  describe('is bounded', () => {
    let bench: StoreBench;
    let store: LocalStore;

    beforeEach(() => {
      bench = new StoreBench();
      ends.push(async () => await bench.close());
      store = bench.store(1);
    });

    const backups = (timeLimitMs = 20_000): BackupCommands => {
      const commands = path('commands');
      const options = { commands, timeLimitMs, scratch: path('scratch'), runtime: localRuntime(), log: silentLogger };
      const made = new BackupCommands(options);
      ends.push(async () => await made.stop());
      return made;
    };
    const begun = async (): Promise<void> => {
      await eventually('the program runs', () => existsSync(path('began')));
    };

    it('to programs in its folder that end with 0', async () => {
      writeFileSync(path('outside'), '#!/bin/sh\n', { mode: 0o755 });
      program('well', 'exit 0');
      program('badly', 'exit 3');
      writeFileSync(join(folder, 'commands', 'not-executable'), 'exit 0');
      const made = backups();
      const commands = ['well', 'badly', 'missing', 'not-executable', '../outside', path('outside'), '.', '..', 'a\0b'];
      const outcomes: boolean[] = [];
      for (const command of commands) outcomes.push(await made.run(store, 'default', command));
      assert.deepEqual(outcomes, [true, ...commands.slice(1).map(() => false)]);
      assert.equal(existsSync(path('scratch')), false);
    });

    it('to the records of one moment, whatever is written meanwhile', async () => {
      const write = async (value: string): Promise<void> => {
        await store.write((transaction) => {
          for (let i = 0; i < 20_000; i++) transaction.set('default', text(`k${i}`), text(value), 0);
        }).committed;
      };
      await write('before');
      program('copy', `cp "$1" "${path('copied')}"`);
      const done = backups().run(store, 'default', 'copy');
      await write('after');
      assert.equal(await done, true);
      const lines = readFileSync(path('copied'), 'latin1').trim().split('\n');
      const values = new Set(lines.map((line) => line.split('\t')[1]));
      assert.deepEqual([lines.length, values.size], [20_000, 1]);
    });

    it('to one at a time', async () => {
      program('slow', `touch "${path('began')}"; while [ ! -e "${path('go')}" ]; do sleep 0.05; done`);
      program('well', 'exit 0');
      const made = backups();
      const first = made.run(store, 'default', 'slow');
      await begun();
      assert.equal(await made.run(store, 'default', 'well'), false);
      writeFileSync(path('go'), '');
      assert.equal(await first, true);
      assert.equal(await made.run(store, 'default', 'well'), true);
    });

    it('in time: a program that does not end is ended, with what it started', async () => {
      program(
        'endless',
        `trap '' TERM; touch "${path('began')}"; sleep 600 & echo $! > "${path('child')}"; wait; wait`,
      );
      const made = backups(1500);
      assert.equal(await made.run(store, 'default', 'endless'), false);
      const child = Number(readFileSync(path('child'), 'latin1'));
      // Whoever adopts it may take a moment to bury it.
      await eventually('what it started has ended', () => !isAlive(child));
      assert.deepEqual(readdirSync(folder).includes('scratch'), false);
    });

    it('by the end of the node', async () => {
      program('endless', `touch "${path('began')}"; sleep 600`);
      const made = backups();
      const outcome = made.run(store, 'default', 'endless');
      await begun();
      await made.stop();
      assert.equal(await outcome, false);
    });

    it('to a folder that there is', () => {
      rmSync(path('commands'), { recursive: true });
      assert.throws(() => backups(), { code: 'CONFIG', message: /backup\.commands: .* is no folder/ });
    });
  });
});

/** A process that has ended and is not buried yet is not alive. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return false;
  }
}
