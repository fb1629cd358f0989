/** JSON lines: what they mean, each exactly once over kills, and readers that wait for one. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoClient } from '../../src/client/client.js';
import { parseLine } from '../../src/feeds/lines/format.js';
import { Cluster, type ClusterNode, cliPath } from '../support/cluster.js';

describe('a line', () => {
  it('sets, removes and clears, in order', () => {
    const line = `[{"set":"a","value":"ü"},{"set":"b","base64":"/wA="},{"set":"c","json":{"x":[1,null]},"expires":5.2},
      {"set":"d","value":"","database":"other","expires":"2030-01-01T00:00:00Z"},{"remove":"a"},{"clear":"p/"}]`;
    const [a, b, c, d, e, f] = parseLine(line, 'default');
    const key = (text: string): Buffer => Buffer.from(text);
    assert.deepEqual(a, { kind: 'set', database: 'default', key: key('a'), value: key('ü'), xtMs: 0 });
    assert.deepEqual(b, { kind: 'set', database: 'default', key: key('b'), value: Buffer.of(255, 0), xtMs: 0 });
    assert.deepEqual(c, { kind: 'set', database: 'default', key: key('c'), value: key('{"x":[1,null]}'), xtMs: 6 });
    assert.deepEqual(d, {
      kind: 'set',
      database: 'other',
      key: key('d'),
      value: key(''),
      xtMs: Date.UTC(2030, 0, 1),
    });
    assert.deepEqual(e, { kind: 'remove', database: 'default', key: key('a') });
    assert.deepEqual(f, { kind: 'clear', database: 'default', key: key('p/') });
    assert.deepEqual(parseLine('  ', 'default'), []);
  });

  it('that means nothing is refused, whatever it is', () => {
    for (const text of [
      '{',
      '1',
      'null',
      '[[]]',
      '{}',
      '{"set":"a"}',
      '{"set":1,"value":"x"}',
      '{"set":"a","value":1}',
      '{"set":"a","value":"x","json":1}',
      '{"set":"a","remove":"a"}',
      '{"remove":"a","value":"x"}',
      '{"remove":"a","expires":1}',
      '{"set":"a","base64":"%%"}',
      '{"set":"a","value":"x","expires":"soon"}',
      '{"set":"a","value":"x","ttl":1}',
    ])
      assert.throws(() => parseLine(text, 'default'), { code: 'MALFORMED' }, text);
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        try {
          parseLine(text, 'default');
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'MALFORMED');
        }
      }),
    );
  });
});

describe('tokaido feed', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  let file: string;
  let process_: ChildProcess | undefined;
  let atEdge: TokaidoClient;
  before(async () => {
    cluster = await Cluster.create();
    const config = { databases: ['default', 'other'], replication: { reconnectMinMs: 20, reconnectMaxMs: 100 } };
    root = await cluster.add({ name: 'root', role: 'root', config });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root], config });
    cluster.start(edge);
    file = join(cluster.folder, 'input.jsonl');
    writeFileSync(file, '');
    atEdge = new TokaidoClient({ server: `127.0.0.1:${edge.clientPort}` });
  });
  after(async () => {
    atEdge.close();
    await kill();
    await cluster.close();
  });

  async function feed(input: string, ...more: string[]): Promise<ChildProcess> {
    const parameters = [cliPath(), 'feed', input, '--config', join(root.folder, 'node.yaml'), ...more];
    process_ = spawn(process.execPath, parameters, { stdio: ['pipe', 'ignore', 'pipe'] });
    process_.stdin?.on('error', () => undefined);
    process_.stderr?.resume();
    await eventuallyAsync('the root is ready', async () => await cluster.isReady(root));
    return process_;
  }

  async function kill(): Promise<void> {
    const child = process_;
    process_ = undefined;
    if (child === undefined) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  const status = async () => (await cluster.status(root)).feed as Record<string, unknown>;

  async function eventuallyAsync(what: string, condition: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + 20_000;
    while (!(await condition().catch(() => false))) {
      assert.ok(performance.now() < deadline, what);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Bytes that the file has: the position behind its last line. */
  let bytes = 0;
  function append(...lines: string[]): string {
    const text = lines.map((line) => `${line}\n`).join('');
    appendFileSync(file, text);
    bytes += Buffer.byteLength(text);
    return `lines:${bytes}`;
  }

  it('follows a file, and an edge is asked for a line by its position', async () => {
    await feed(file);
    await cluster.ready(edge);
    const position = append(
      '{"set":"a","value":"1"}',
      '',
      '[{"set":"a","value":"2"},{"set":"b","value":"2","database":"other"}]',
    );
    const atLeast = { position, waitMs: 20_000 };
    assert.equal((await atEdge.get('a', { atLeast }))?.value.toString(), '2');
    assert.equal((await atEdge.get('b', { database: 'other' }))?.value.toString(), '2');
    appendFileSync(file, '{"set":"half","val');
    await assert.rejects(atEdge.reach({ position: `lines:${bytes + 1}`, waitMs: 300 }), /has reached \d+ of lines/);
    appendFileSync(file, 'ue":"whole"}\n');
    bytes += Buffer.byteLength('{"set":"half","value":"whole"}\n');
    assert.equal(
      (await atEdge.get('half', { atLeast: { position: `lines:${bytes}`, waitMs: 20_000 } }))?.value.toString(),
      'whole',
    );
  });

  it('applies each line exactly once, however often the root is killed', async () => {
    const number = async (): Promise<number> => (await cluster.status(root)).position[0]?.sequence ?? 0;
    await eventuallyAsync('all is applied', async () => (await status()).position === bytes);
    const before = await number();
    const LINES = 2000;
    for (let i = 0; i < LINES; ) {
      const lines = Array.from({ length: 400 }, () => `{"set":"k${++i % 7}","value":"${i}"}`);
      append(...lines);
      // Somewhere in the midst of them.
      await new Promise((resolve) => setTimeout(resolve, 30));
      await kill();
      await feed(file);
    }
    await eventuallyAsync('all is applied', async () => (await status()).position === bytes);
    assert.equal((await number()) - before, LINES, 'one transaction for a line, none twice');
    assert.equal(
      (await atEdge.get('k5', { atLeast: { position: `lines:${bytes}`, waitMs: 20_000 } }))?.value.toString(),
      '2000',
    );
  });

  it('a line that means nothing stops it by name, and none behind it is applied', async () => {
    const bad = bytes;
    append('{"set":"c","valu":"1"}', '{"set":"behind","value":"1"}');
    await eventuallyAsync('it says so', async () => {
      return new RegExp(`the line at byte ${bad}: .*"valu" that means nothing`).test(
        String((await status()).lastError),
      );
    });
    assert.equal(await atEdge.get('behind'), undefined);
  });
});

describe('tokaido feed from standard input', () => {
  it('skips what it has of an input that begins again, and refuses a file that was cut or replaced', async () => {
    const cluster = await Cluster.create();
    try {
      const root = await cluster.add({ name: 'root', role: 'root' });
      const start = (input: string): ChildProcess => {
        const parameters = [cliPath(), 'feed', input, '--config', join(root.folder, 'node.yaml')];
        const child = spawn(process.execPath, parameters, { stdio: ['pipe', 'ignore', 'ignore'] });
        child.stdin?.on('error', () => undefined);
        return child;
      };
      const end = async (child: ChildProcess): Promise<void> => {
        const gone = once(child, 'exit');
        child.kill('SIGKILL');
        await gone;
      };
      const until = async (what: string, condition: (feed: Record<string, unknown>, sequence: number) => boolean) => {
        const deadline = performance.now() + 20_000;
        for (;;) {
          const now = await cluster.status(root).catch(() => undefined);
          const { feed } = now ?? {};
          if (feed !== undefined && condition(feed as Record<string, unknown>, now?.position[0]?.sequence ?? 0)) return;
          assert.ok(performance.now() < deadline, `${what}: ${JSON.stringify(feed)}`);
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      };
      const lines = Array.from({ length: 100 }, (_, i) => `{"set":"k","value":"${i}"}\n`);
      let child = start('-');
      child.stdin?.write(lines.slice(0, 60).join(''));
      await until('sixty lines', (_, sequence) => sequence === 60);
      await end(child);
      child = start('-');
      child.stdin?.end(lines.join('').trimEnd());
      await until('the end', ({ state }, sequence) => state === 'ended' && sequence === 100);
      await end(child);
      const file = join(cluster.folder, 'input');
      writeFileSync(file, lines.join(''));
      child = start(file);
      appendFileSync(file, '{"set":"k","value":"last"}\n');
      await until('it goes on in a file', (_, sequence) => sequence === 101);
      writeFileSync(`${file}.new`, lines.join('').repeat(2));
      renameSync(`${file}.new`, file);
      await until('a new file', ({ lastError }) => /is another file than before/.test(String(lastError)));
      truncateSync(file, 10);
      await until('a file cut short', ({ lastError }) => /has 10 bytes, and \d+ were read/.test(String(lastError)));
      await end(child);
    } finally {
      await cluster.close();
    }
  });
});
