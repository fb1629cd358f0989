/**
 * What kt_fdw, the foreign data wrapper of Postgres for Kyoto Tycoon, sends for each SQL statement, byte for byte as its
 * client library writes it, on one connection that is kept: POST with a table of tab-separated values, in plain text
 * unless a name or value holds control characters or is longer than 255 bytes, then in Base64 or percent-encoded,
 * whichever is shorter. No `DB`, no `xt`: it knows neither. Numbers of cursors are of up to 59 bits.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ClientDecoder, parseRows } from '../../src/client/wire.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

const TYPE = 'text/tab-separated-values';
/** One more could not be told from it if it were kept as a double. */
const FIRST_CURSOR = 576_460_752_303_423_487n;

interface Answer {
  readonly status: number;
  readonly rows: ReadonlyMap<string, Buffer>;
}

function percent(text: string): string {
  return encodeURIComponent(text);
}

/** How the library writes a table: as it is, or in the form that it takes for the shorter one. */
function formOf(texts: readonly string[]): '' | 'B' | 'U' {
  // It looks at the first 255 bytes of each only.
  const sizes = texts.map((text) => Math.min(255, Buffer.byteLength(text)));
  if (texts.every((text) => Buffer.byteLength(text) <= 255 && !/\p{Cc}/u.test(text))) return '';
  const base64 = sizes.reduce((all, size) => all + Math.floor((size * 6) / 4) + 3, 0);
  const escaped = texts.reduce((all, text) => all + percent(Buffer.from(text).toString('latin1', 0, 255)).length, 0);
  return base64 < escaped ? 'B' : 'U';
}

/** The library's connection. */
class Library {
  readonly #socket: Socket;
  readonly #port: number;
  readonly #decoder = new ClientDecoder();
  #received = Buffer.alloc(0);

  private constructor(socket: Socket, port: number) {
    this.#socket = socket;
    this.#port = port;
  }

  static async open(port: number): Promise<Library> {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new Library(socket, port);
  }

  async call(procedure: string, input: Readonly<Record<string, string>> = {}): Promise<Answer> {
    const all = Object.entries(input).sort(([a], [b]) => (a < b ? -1 : 1));
    const form = formOf(all.flat());
    const encode = (text: string): string => {
      return form === '' ? text : form === 'B' ? Buffer.from(text).toString('base64') : percent(text);
    };
    const body = all.map(([name, value]) => `${encode(name)}\t${encode(value)}\n`).join('');
    const head = [
      `POST /rpc/${procedure} HTTP/1.1`,
      `Host: 127.0.0.1:${this.#port}`,
      `Content-Length: ${Buffer.byteLength(body)}`,
      `Content-Type: ${TYPE}${form === '' ? '' : `; colenc=${form}`}`,
    ];
    this.#decoder.expect(false);
    this.#socket.write(`${head.join('\r\n')}\r\n\r\n${body}`);
    for (;;) {
      const parsed = this.#decoder.parse(this.#received);
      if (parsed?.reply.kind === 'http') {
        this.#received = this.#received.subarray(parsed.bytes);
        const { status, headers, body: answer } = parsed.reply;
        // The library understands the tables of this type only.
        assert.ok(headers.get('content-type')?.startsWith(TYPE), headers.get('content-type'));
        assert.equal(headers.get('connection'), undefined, 'the connection is kept');
        return { status, rows: parseRows(answer, headers.get('content-type') as string) };
      }
      this.#received = Buffer.concat([
        this.#received,
        await new Promise<Buffer>((resolve, reject) => {
          this.#socket.once('data', resolve);
          this.#socket.once('close', () => reject(new Error('the server closed the connection')));
        }),
      ]);
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

describe('kt_fdw', () => {
  let folder: string;
  let node: ServedNode;
  let library: Library;
  let cursors = FIRST_CURSOR;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-fdw-'));
    const port = await freePort();
    node = await ServedNode.start(['--data', 'data', '--host', '127.0.0.1', '--port', String(port)], folder);
    library = await Library.open(port);
  });
  after(async () => {
    library.close();
    await node.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const text = ({ rows }: Answer, name: string): string | undefined => rows.get(name)?.toString();

  /** SELECT of everything: the planner counts, then a cursor walks and steps, and is given back. */
  async function scan(): Promise<{ planned: string | undefined; rows: [string, string][] }> {
    const planned = text(await library.call('status'), 'count');
    const CUR = String(++cursors);
    const rows: [string, string][] = [];
    await library.call('cur_jump', { CUR });
    for (;;) {
      const row = await library.call('cur_get', { CUR, step: '' });
      if (row.status !== 200) {
        assert.equal(row.status, 450, 'it ends at whatever is no success');
        break;
      }
      rows.push([text(row, 'key') as string, text(row, 'value') as string]);
    }
    assert.equal((await library.call('cur_delete', { CUR })).status, 200);
    return { planned, rows };
  }

  it('INSERT adds, and fails on a key that is there', async () => {
    assert.deepEqual(await scan(), { planned: '0', rows: [] });
    const binary = '\x01\n%+ü'.repeat(20);
    const long = `tab\t and ${'x'.repeat(300)}`;
    for (const [key, value] of [
      ['a', '1'],
      ['b', 'ü 2 % +'],
      ['c', long],
      ['d', binary],
    ] as const)
      assert.equal((await library.call('add', { key, value })).status, 200);
    assert.equal(text(await library.call('get', { key: 'd' }), 'value'), binary);
    assert.equal((await library.call('remove', { key: 'd' })).status, 200);
    const twice = await library.call('add', { key: 'a', value: '3' });
    assert.equal(twice.status, 450);
    assert.match(text(twice, 'ERROR') ?? '', /record duplication/);
    assert.equal(text(await library.call('get', { key: 'c' }), 'value'), long);
    assert.equal((await library.call('remove', { key: 'c' })).status, 200);
  });

  it('SELECT walks all, or gets one when the key is given', async () => {
    const rows = [
      ['a', '1'],
      ['b', 'ü 2 % +'],
    ];
    assert.deepEqual(await scan(), { planned: '2', rows });
    const one = await library.call('get', { key: 'b' });
    assert.equal(text(one, 'value'), 'ü 2 % +');
    assert.equal(one.rows.has('xt'), false, 'it never expires');
    assert.equal((await library.call('get', { key: 'none' })).status, 450);
  });

  it('two scans at a time, as in a join, have cursors of their own', async () => {
    const [first, second] = [String(++cursors), String(++cursors)];
    for (const CUR of [first, second]) assert.equal((await library.call('cur_jump', { CUR })).status, 200);
    const keys: (string | undefined)[] = [];
    for (const CUR of [first, second, second, first])
      keys.push(text(await library.call('cur_get', { CUR, step: '' }), 'key'));
    assert.deepEqual(keys, ['a', 'a', 'b', 'b']);
    for (const CUR of [first, second]) assert.equal((await library.call('cur_delete', { CUR })).status, 200);
  });

  it('UPDATE replaces, DELETE removes, and both fail on a key that is not there', async () => {
    assert.equal((await library.call('replace', { key: 'a', value: 'new' })).status, 200);
    assert.equal((await library.call('replace', { key: 'none', value: 'x' })).status, 450);
    assert.equal((await library.call('remove', { key: 'b' })).status, 200);
    assert.equal((await library.call('remove', { key: 'b' })).status, 450);
    assert.deepEqual((await scan()).rows, [['a', 'new']]);
  });

  it('transactions of a build with USE_TRANSACTIONS are refused, not half done', async () => {
    for (const name of ['ktfdwbegintransaction', 'ktfdwcommit', 'ktfdwabort'])
      assert.equal((await library.call('play_script', { name })).status, 501);
  });
});
