/** `tokaido export` and `tokaido import` as processes: whole databases out, in and across, against real listeners. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { ClientBench } from '../support/client-bench.js';
import { cliPath } from '../support/cluster.js';
import { eventually } from '../support/local-runtime.js';

const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
/** After the bench's clock, and after the machine's. */
const XT_MS = 4_102_444_800_000;

describe('whole databases', () => {
  let from: ClientBench;
  let to: ClientBench;
  let folder: string;
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-transfer-'));
    from = new ClientBench(['casket.kct', 'other.kct']);
    to = new ClientBench(['casket.kct', 'other.kct']);
    await from.listen();
    await to.listen();
  });
  afterEach(async () => {
    await from.close();
    await to.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const at = (bench: ClientBench): string[] => ['--server', `127.0.0.1:${bench.port}`];

  function records(bench: ClientBench, database = 'casket.kct'): string[] {
    return [...bench.store.scan(database, {})].map(({ key, record }) => {
      return `${key.toString('hex')} ${record.value.toString('hex')} ${record.xtMs}`;
    });
  }

  async function fill(count: number): Promise<void> {
    for (let start = 0; start < count; start += 1000) {
      await from.store.write((transaction) => {
        for (let i = start; i < Math.min(count, start + 1000); i++) {
          transaction.set('casket.kct', Buffer.from(`key ${i}`), Buffer.from(`value ${i}`), i % 3 === 0 ? XT_MS : 0);
        }
      }).committed;
    }
    await from.store.write((transaction) => transaction.set('casket.kct', ALL_BYTES, ALL_BYTES, XT_MS)).committed;
  }

  it('go through a file unchanged: any bytes, expiration times, empty values', async () => {
    await fill(1500);
    await from.store.write((transaction) => transaction.set('casket.kct', Buffer.from('empty'), Buffer.alloc(0), 0))
      .committed;
    const file = join(folder, 'records.tsv');
    const exported = await tokaido(['export', ...at(from), '--output', file, '--json']);
    assert.deepEqual([exported.code, exported.err], [0, '']);
    assert.equal(json(exported).exported, 1502);
    const imported = await tokaido(['import', file, ...at(to), '--database', 'casket.kct', '--json']);
    assert.equal(imported.code, 0, imported.err);
    assert.equal(json(imported).imported, 1502);
    assert.deepEqual(records(to), records(from));
    assert.equal(existsSync(`${file}.partial`), false);
  });

  it('go through a pipe, quietly, in each encoding', async () => {
    await fill(10);
    for (const encoding of ['quoted', 'hex']) {
      const exported = await tokaido(['export', ...at(from), '--encoding', encoding]);
      assert.equal(exported.err, '');
      const imported = await tokaido(['import', '-', ...at(to), '--encoding', encoding], { input: exported.out });
      assert.deepEqual([imported.code, imported.err, imported.out.toString()], [0, '', '']);
      assert.deepEqual(records(to), records(from), encoding);
      await to.store.write((transaction) => transaction.clear('casket.kct')).committed;
    }
  });

  it('go straight across, into another database, and over what is there', async () => {
    await fill(1200);
    await to.store.write((transaction) => {
      transaction.set('other.kct', Buffer.from('key 1'), Buffer.from('old'), 0);
      transaction.set('other.kct', Buffer.from('other'), Buffer.from('stays'), 0);
    }).committed;
    const parameters = [
      'import',
      '--from',
      `127.0.0.1:${from.port}`,
      '--from-database',
      '0',
      ...at(to),
      '--database',
      'other.kct',
    ];
    for (let round = 0; round < 2; round++) {
      const imported = await tokaido([...parameters, '--json']);
      assert.equal(imported.code, 0, imported.err);
      assert.equal(json(imported).imported, 1201);
    }
    const expected = [
      ...records(from),
      `${Buffer.from('other').toString('hex')} ${Buffer.from('stays').toString('hex')} 0`,
    ];
    assert.deepEqual(records(to, 'other.kct').sort(), expected.sort());
  });

  it('follow the order of the lines: set and removed again, removed and set again', async () => {
    const input = Buffer.from('a\t1\nb\t1\na\nb\nb\t2\n');
    const { code, err } = await tokaido(['import', '-', ...at(to)], { input });
    assert.equal(code, 0, err);
    assert.deepEqual(records(to), ['62 32 0']);
  });

  it('go on from a file where an import stopped, and say lines by their true number', async () => {
    const [file, progress] = [join(folder, 'records.tsv'), join(folder, 'progress')];
    const first = 'a\t1\nb\t1\n';
    writeFileSync(file, `${first}c\t1\nd\t1\n`);
    const parameters = ['import', file, ...at(to), '--resume', progress];
    const server = `127.0.0.1:${to.port}`;
    const saved = { format: 1, what: `${file} url to ${server} 0`, position: { bytes: first.length, lines: 2 } };
    writeFileSync(progress, JSON.stringify(saved));
    const resumed = await tokaido([...parameters, '--json']);
    assert.deepEqual([resumed.code, json(resumed).imported], [0, 2], resumed.err);
    assert.deepEqual(records(to), ['63 31 0', '64 31 0']);
    assert.equal(existsSync(progress), false, 'all is imported');

    writeFileSync(progress, JSON.stringify(saved));
    writeFileSync(file, `${first}c\t1\td\n`);
    assert.match((await tokaido(parameters)).err, /line 3: /);
    writeFileSync(file, 'a');
    assert.match((await tokaido(parameters)).err, /shorter than it was/);
    const other = await tokaido([...parameters, '--database', '1']);
    assert.match(other.err, /is not the progress of this import/);
    const piped = await tokaido(['import', '-', ...at(to), '--resume', progress], { input: Buffer.from('') });
    assert.match(piped.err, /standard input cannot be begun in the middle/);
  });

  it('go on from a server where an import was killed, and need its record only where there is no order', async () => {
    const progress = join(folder, 'progress');
    await fill(1000);
    const [source, server] = [`127.0.0.1:${from.port}`, `127.0.0.1:${to.port}`];
    const key = (text: string): string => Buffer.from(text).toString('base64');
    const save = (text: string): void => {
      const what = `${source} 0 to ${server} 0`;
      writeFileSync(progress, JSON.stringify({ format: 1, what, position: { key: key(text) } }));
    };
    const parameters = ['import', '--from', source, ...at(to), '--resume', progress, '--json'];
    save('key 500');
    const all = records(from);
    const place = all.findIndex((line) => line.startsWith(Buffer.from('key 500').toString('hex')));
    const resumed = await tokaido(parameters);
    assert.deepEqual([resumed.code, json(resumed).imported], [0, all.length - place], resumed.err);
    assert.deepEqual(records(to), all.slice(place));

    // Behind the last key there is nothing: of a database without order that could mean that its place is lost.
    await from.store.write((transaction) => transaction.clear('casket.kct')).committed;
    save('key 500');
    const lost = await tokaido(parameters);
    assert.equal(lost.code, 1);
    assert.match(lost.err, /no longer has the record at which this import stopped/);
    assert.equal(existsSync(progress), true);
  });

  it('note how far they are while they go on', async () => {
    const progress = join(folder, 'progress');
    const lines = Array.from({ length: 300_000 }, (_, i) => `key ${i}\tvalue ${i}\n`);
    const file = join(folder, 'records.tsv');
    writeFileSync(file, lines.join(''));
    const child = spawn(process.execPath, [cliPath(), 'import', file, ...at(to), '--resume', progress]);
    const gone = once(child, 'exit');
    await eventually('it notes how far it is', () => existsSync(progress) || child.exitCode !== null, 20_000);
    child.kill('SIGKILL');
    await gone;
    const ended = await tokaido(['import', file, ...at(to), '--resume', progress, '--json']);
    assert.equal(ended.code, 0, ended.err);
    assert.ok((json(ended).imported as number) < lines.length, 'it did not begin again');
    assert.equal(to.store.count('casket.kct'), lines.length);
  });

  it('say which line is wrong, and keep what came before it', async () => {
    const file = join(folder, 'wrong.tsv');
    writeFileSync(file, 'a\t1\nb\t1\tsoon\n');
    const { code, err } = await tokaido(['import', file, ...at(to)]);
    assert.equal(code, 1);
    assert.match(err, /error: line 2: an expiration time "soon"/);
  });

  it('leave no file behind that is not whole', async () => {
    await fill(0);
    const file = join(folder, 'raw.tsv');
    writeFileSync(file, 'an older export');
    const { code, err } = await tokaido(['export', ...at(from), '--output', file, '--encoding', 'raw']);
    assert.equal(code, 1);
    assert.match(err, /does not fit a raw line/);
    assert.equal(readFileSync(file, 'utf8'), 'an older export');
    assert.equal(existsSync(`${file}.partial`), false);
  });

  it('name a database that is not there, a file that is not there, and a server that is not there', async () => {
    const missing = await tokaido(['export', ...at(from), '--database', 'nowhere']);
    assert.match(missing.err, /has no database nowhere/);
    assert.equal(missing.code, 1);
    const unknown = await tokaido(['import', '-', ...at(to), '--database', 'nowhere'], {
      input: Buffer.from('a\t1\n'),
    });
    assert.match(unknown.err, /has no database nowhere/);
    const noFile = await tokaido(['import', join(folder, 'none.tsv'), ...at(to)]);
    assert.deepEqual([noFile.code, /cannot read .*none\.tsv/.test(noFile.err)], [2, true]);
    const noServer = await tokaido(['export', '--server', '127.0.0.1:1']);
    assert.match(noServer.err, /ECONNREFUSED/);
    const neither = await tokaido(['import', ...at(to)]);
    assert.deepEqual([neither.code, /give a file/.test(neither.err)], [2, true]);
  });
});
