/** The audit log as files: the chain, what breaks it, crashes, rotation, strangers who would fill it, a disk that refuses. */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fc from 'fast-check';
import { silentLogger } from '../../src/base/logger.js';
import { readLine, START, seal } from '../../src/node/audit/chain.js';
import { fullFiles, verifyFiles } from '../../src/node/audit/files.js';
import { AuditLog, EVENTS_AT_ONCE, EVENTS_PER_SECOND } from '../../src/node/audit/log.js';
import { json, tokaido } from '../support/cli.js';
import { localRuntime } from '../support/local-runtime.js';

describe('the audit log', () => {
  let folder: string;
  let file: string;
  let monotonicMs: number;
  const opened: AuditLog[] = [];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-audit-'));
    file = join(folder, 'audit.log');
    monotonicMs = 0;
  });
  afterEach(() => {
    for (const log of opened.splice(0)) log.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const open = (limits: { maxBytes?: number; keep?: number } = {}): AuditLog => {
    const runtime = localRuntime({ nowMs: () => 1_800_000_000_000, monotonicMs: () => monotonicMs });
    const log = new AuditLog({ file, maxBytes: 1 << 20, keep: 3, runtime, log: silentLogger, ...limits });
    opened.push(log);
    return log;
  };
  const close = (log: AuditLog): void => {
    opened.splice(opened.indexOf(log), 1);
    log.close();
  };
  const lines = (path = file): string[] => readFileSync(path, 'utf8').split('\n').slice(0, -1);
  const fill = (log: AuditLog, count: number): void => {
    for (let i = 0; i < count; i++) {
      monotonicMs += 1000 / EVENTS_PER_SECOND;
      log.record('client.refused', { address: `10.0.0.${i}`, reason: 'no certificate' });
    }
  };
  const problem = async (wanted?: { number: number; hash: string }): Promise<string | undefined> => {
    return (await verifyFiles(file, wanted)).problem?.what;
  };

  it('has these lines', () => {
    const first = seal(START, { timeMs: 0, event: 'node.started', facts: { name: 'rée\u2028t', empty: undefined } });
    const body =
      '{"n":1,"time":"1970-01-01T00:00:00.000Z","event":"node.started","name":"r\\u00e9e\\u2028t",' +
      `"previous":"${'0'.repeat(64)}"`;
    const hash = '7a4e128684d2c5dff16d5b1be59622a495bf39a5905f18f14b5f6d77520094ec';
    assert.equal(first.line, `${body},"hash":"${hash}"}`);
    assert.equal(first.head.number, 1);
    const second = seal(first.head, { timeMs: 1, event: 'node.stopped', facts: {} });
    assert.deepEqual(readLine(second.line), { head: second.head, previous: first.head.hash, isWhole: true });
  });

  it('is for its owner only, and goes on where it ended', async () => {
    const log = open();
    fill(log, 3);
    const { head } = log;
    close(log);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const again = open();
    assert.deepEqual(again.head, head);
    fill(again, 2);
    assert.equal(await problem(head), undefined);
    assert.equal(lines().length, 5);
  });

  it('shows any line that was changed, removed, inserted, swapped or written anew', async () => {
    const log = open();
    fill(log, 8);
    const whole = lines();
    const { head } = log;
    const write = (changed: readonly string[]): void =>
      writeFileSync(file, changed.map((line) => `${line}\n`).join(''));
    const property = fc.asyncProperty(fc.nat(whole.length - 1), fc.nat(1000), async (at, place) => {
      const line = whole[at] as string;
      const position = place % line.length;
      const changed = `${line.slice(0, position)}${line[position] === 'x' ? 'y' : 'x'}${line.slice(position + 1)}`;
      write(whole.with(at, changed));
      assert.notEqual(await problem(), undefined, `changed at ${position}`);
      if (at < whole.length - 1) {
        write(whole.toSpliced(at, 1));
        // Without its first lines a log looks as if they had been rotated away; who noted one knows.
        const noted = readLine(line)?.head;
        assert.notEqual(
          await problem(at === 0 ? { number: 1, hash: 'f'.repeat(64) } : noted),
          at === 0 ? 0 : undefined,
        );
        write(whole.toSpliced(at, 2, whole[at + 1] as string, line));
        assert.notEqual(await problem(), undefined, 'swapped');
      }
      write(whole.toSpliced(at, 0, line));
      assert.notEqual(await problem(), undefined, 'doubled');
    });
    await fc.assert(property, { numRuns: 60 });
    write(whole.slice(0, -1));
    assert.equal(await problem(), undefined, 'a cut end looks like an older log');
    assert.match((await problem(head)) ?? '', /the end was cut off/);
    // Everything written anew, in good order: only a noted hash tells.
    rmSync(file);
    fill(open(), 8);
    const forged = lines();
    assert.equal(forged.length, 8);
    writeFileSync(file, '');
    let at = START;
    for (const _ of whole) {
      const { line, head: next } = seal(at, { timeMs: 5, event: 'node.started', facts: {} });
      at = next;
      appendFileSync(file, `${line}\n`);
    }
    assert.equal(await problem(), undefined);
    assert.match((await problem(head)) ?? '', /written anew/);
  });

  it('cuts off what a crash tore, wherever it was torn, and says so', async () => {
    const log = open();
    fill(log, 3);
    close(log);
    const whole = readFileSync(file);
    const before = Buffer.byteLength(lines().slice(0, 2).join('\n')) + 1;
    for (const size of [before + 1, before + 40, whole.length - 1]) {
      writeFileSync(file, whole);
      truncateSync(file, size);
      if (size < whole.length - 1) assert.match((await problem()) ?? '', /no whole line/);
      const again = open();
      fill(again, 1);
      assert.equal(await problem(), undefined);
      const [torn] = lines().slice(2);
      assert.match(torn ?? '', new RegExp(`"event":"audit.torn","bytes":${size - before},`));
      close(again);
    }
  });

  it('goes on behind a damaged last line, which the verification finds', async () => {
    const log = open();
    fill(log, 3);
    close(log);
    writeFileSync(file, readFileSync(file, 'utf8').replace('10.0.0.2', '10.0.0.9'));
    fill(open(), 1);
    assert.match(lines()[3] ?? '', /"event":"audit.damaged"/);
    const found = await verifyFiles(file, undefined);
    assert.deepEqual([found.problem?.line, found.head?.number], [3, 2]);
  });

  it('puts full files aside, keeps so many, and the chain goes on through them', async () => {
    const log = open({ maxBytes: 2000, keep: 3 });
    fill(log, 60);
    assert.equal(fullFiles(file).length, 3);
    for (const name of readdirSync(folder)) {
      assert.ok(statSync(join(folder, name)).size <= 2000, name);
      assert.equal(statSync(join(folder, name)).mode & 0o777, 0o600);
    }
    const { first, head, problem: wrong } = await verifyFiles(file, undefined);
    assert.equal(wrong, undefined);
    assert.equal(head?.number, 60);
    assert.ok(first !== undefined && first > 30 && first < 60, `${first}`);
    // A crash between putting the full file aside and beginning the next.
    close(log);
    rmSync(file);
    const again = open({ maxBytes: 2000, keep: 3 });
    assert.ok(again.head.number > 50);
    fill(again, 1);
    assert.equal(await problem(), undefined);
    rmSync(fullFiles(file)[1] as string);
    assert.match((await problem()) ?? '', /lines were removed/);
  });

  it('leaves out what strangers cause beyond a rate, and says how much', () => {
    const log = open();
    for (let i = 0; i < EVENTS_AT_ONCE + 500; i++) log.record('client.refused', {});
    assert.equal(lines().length, EVENTS_AT_ONCE);
    assert.equal(log.lost, 500);
    monotonicMs += 1000;
    log.record('client.refused', {});
    assert.match(lines().at(-1) ?? '', /"leftOut":500/);
  });

  it('bounds what one line may hold', () => {
    const log = open();
    log.record('client.refused', { names: Array(500).fill('n'.repeat(5000)), reason: 'r'.repeat(100_000) });
    assert.ok((lines()[0]?.length ?? 0) < 40_000);
  });

  it('is verified by a command', async () => {
    const log = open();
    fill(log, 4);
    const noted = `${log.head.number}:${log.head.hash}`;
    const good = await tokaido(['audit', 'verify', file, '--noted', noted]);
    assert.equal(good.code, 0, good.err);
    assert.match(good.out.toString(), /^4 lines, 1 to 4: the chain is whole\nlast hash [0-9a-f]{64}\n$/);
    const none = await tokaido(['audit', 'verify', `${file}.not`]);
    assert.deepEqual([none.code, none.err.trim()], [2, `error: there is no audit log ${file}.not`]);
    writeFileSync(file, readFileSync(file, 'utf8').replace('10.0.0.1', '10.0.0.7'));
    const bad = await tokaido(['audit', 'verify', file, '--json']);
    assert.equal(bad.code, 1);
    assert.deepEqual(json(bad).problem, {
      file,
      line: 2,
      what: 'was changed: its hash is not that of its text',
    });
  });
});
