/**
 * Clients written by others, against a real node that was started with flags alone: memcached clients, curl, Node's own
 * HTTP, and undici. Each does with us what its users do with it.
 */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { MemcacheClient } from 'memcache-client';
import { Client } from 'undici';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

/** As much of the package `memcached`, which has no types, as these tests use. */
interface CallbackClient {
  end(): void;
  [command: string]: (...parameters: never[]) => void;
}
const Memcached = createRequire(import.meta.url)('memcached') as new (
  server: string,
  options: object,
) => CallbackClient;

const folder = mkdtempSync(join(tmpdir(), 'tokaido-clients-'));
const file = (name: string): string => join(folder, name);
const ports = { http: 0, plain: 0, memcached: 0, queue: 0 };
let node: ServedNode;

before(async () => {
  const nowMs = Date.now();
  await createCa({ folder: file('ca'), name: 'clients', days: 10, nowMs });
  const issued = { ca: file('ca'), role: 'client', days: 2, ip: ['127.0.0.1'], dns: ['localhost'], nowMs } as const;
  await issueCertificate({ ...issued, out: file('server'), name: 'server' });
  for (const name of Object.keys(ports) as (keyof typeof ports)[]) ports[name] = await freePort();
  const flags = [
    ...['--data', 'data', '--db', ':', '--db', 'casket.kct', '--admin', String(await freePort())],
    ...['--port', String(ports.http), '--tls-certificate', 'server/node.crt', '--tls-key', 'server/node.key'],
    ...['--aux-port', String(ports.plain)],
    ...['--memcached', String(ports.memcached), '--memcached-options', 'opts=f'],
    ...['--memcached', String(ports.queue), '--memcached-options', 'opts=fq#qtout=0.3'],
  ];
  node = await ServedNode.start(flags, folder);
});
after(async () => {
  await node.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe('the memcached client memcached', () => {
  let client: CallbackClient;
  before(() => {
    client = new Memcached(`127.0.0.1:${ports.memcached}`, { retries: 0, timeout: 5000 });
  });
  after(() => client.end());

  const call = async (command: string, ...parameters: unknown[]): Promise<unknown> => {
    const invoke = client[command] as (...all: unknown[]) => void;
    return await new Promise((resolve, reject) => {
      invoke.call(client, ...parameters, (error: Error | undefined, data: unknown) => {
        if (error === undefined || error === null) resolve(data);
        else reject(error);
      });
    });
  };

  it('keeps texts, numbers, objects and bytes apart by flags', async () => {
    for (const value of ['text', 42, true, { a: [1, 'ü'] }, Buffer.from([0, 13, 10, 255])]) {
      assert.equal(await call('set', 'value', value, 100), true);
      assert.deepEqual(await call('get', 'value'), value);
    }
  });

  it('adds, replaces, appends, prepends, counts, touches and deletes', async () => {
    await call('del', 'k');
    await assert.rejects(call('replace', 'k', 'x', 0), /not stored/i);
    assert.equal(await call('add', 'k', 'b', 0), true);
    await assert.rejects(call('add', 'k', 'x', 0), /not stored/i);
    assert.equal(await call('append', 'k', 'c'), true);
    assert.equal(await call('prepend', 'k', 'a'), true);
    assert.equal(await call('get', 'k'), 'abc');
    assert.equal(await call('touch', 'k', 100), true);
    assert.equal(await call('set', 'n', 5, 0), true);
    assert.equal(await call('incr', 'n', 10), 15);
    assert.equal(await call('decr', 'n', 20), 0);
    assert.equal(await call('incr', 'none', 1), false);
    assert.equal(await call('del', 'k'), true);
    assert.equal(await call('get', 'k'), undefined);
  });

  it('gets many, and swaps what it has seen', async () => {
    await call('set', 'a', 'A', 0);
    await call('set', 'b', 'B', 0);
    assert.deepEqual(await call('getMulti', ['a', 'b', 'c']), { a: 'A', b: 'B' });
    const seen = (await call('gets', 'a')) as { a: string; cas: string };
    assert.equal(await call('cas', 'a', 'A2', seen.cas, 0), true);
    assert.equal(await call('cas', 'a', 'A3', seen.cas, 0), false);
    assert.equal(await call('get', 'a'), 'A2');
  });

  it('reads version, statistics and settings, and flushes', async () => {
    const [version] = (await call('version')) as { version: string; major: string }[];
    assert.equal(version?.major, '1');
    const [stats] = (await call('stats')) as { cmd_get: number; threads: number }[];
    assert.ok((stats?.cmd_get ?? 0) > 0);
    const [settings] = (await call('settings')) as { binding_protocol: string }[];
    assert.equal(settings?.binding_protocol, 'ascii');
    await call('flush');
    assert.equal(await call('get', 'a'), undefined);
  });
});

describe('the memcached client memcache-client', () => {
  let client: MemcacheClient;
  before(() => {
    client = new MemcacheClient({
      server: { server: `127.0.0.1:${ports.memcached}`, maxConnections: 4 },
      cmdTimeout: 5000,
    });
  });
  after(() => client.shutdown());

  it('stores, reads, counts and deletes, also when it wants no reply', async () => {
    await client.set('k', { a: 1 });
    assert.deepEqual((await client.get<object>('k')).value, { a: 1 });
    await client.set('k', 'quiet', { noreply: true });
    assert.equal((await client.get<string>('k')).value, 'quiet');
    await client.set('n', '7');
    assert.equal(await client.incr('n', 5), '12');
    assert.equal(await client.decr('n', 20), '0');
    await client.delete('k');
    assert.equal(await client.get('k'), undefined);
    await assert.rejects(client.replace('k', 'x'), /NOT_STORED/);
  });

  it('carries a megabyte, and two hundred commands at once', async () => {
    const large = Buffer.alloc(2 ** 20, 7);
    await client.set('large', large);
    assert.deepEqual((await client.get<Buffer>('large')).value, large);
    const keys = Array.from({ length: 200 }, (_, i) => `many${i}`);
    await Promise.all(keys.map(async (key) => await client.set(key, key)));
    const found = (await client.get(keys)) as unknown as Record<string, { value: string }>;
    assert.deepEqual(
      keys.map((key) => found[key]?.value),
      keys,
    );
  });

  it('swaps what it has seen', async () => {
    await client.set('c', 'one');
    const { casUniq } = await client.gets<string>('c');
    await client.cas('c', 'two', { casUniq });
    await assert.rejects(client.cas('c', 'three', { casUniq }), /EXISTS/);
    assert.equal((await client.get<string>('c')).value, 'two');
  });

  it('works with a queue: a message is taken once, and waited for', async () => {
    const queue = new MemcacheClient({ server: `127.0.0.1:${ports.queue}`, cmdTimeout: 5000 });
    try {
      assert.equal(await queue.get('jobs'), undefined);
      await queue.set('jobs', 'one');
      assert.equal((await queue.get<string>('jobs')).value, 'one');
      await queue.delete('jobs');
      assert.equal(await queue.get('jobs'), undefined);
    } finally {
      queue.shutdown();
    }
  });
});

const hasCurl = spawnSync('curl', ['--version']).status === 0;

// Installed nearly everywhere, but not a tool that building needs.
describe('curl', { skip: hasCurl ? false : 'curl is not installed on this machine' }, () => {
  const run = promisify(execFile);
  const curl = async (...parameters: string[]): Promise<string> => {
    return (await run('curl', ['--silent', '--show-error', '--max-time', '10', ...parameters])).stdout;
  };
  const url = (path: string): string => `http://127.0.0.1:${ports.plain}${path}`;

  it('is told to go on before it sends a large body, and gets it back', async () => {
    writeFileSync(file('body'), Buffer.alloc(3_000_000, 'x'));
    const said = await curl('-v', '--stderr', '-', '-H', 'Expect: 100-continue', '-T', file('body'), url('/curl'));
    assert.match(said, /HTTP\/1\.1 100 Continue[\s\S]*HTTP\/1\.1 201 Created/);
    await curl('-o', file('back'), url('/curl'));
    assert.deepEqual(readFileSync(file('back')), readFileSync(file('body')));
  });

  it('sends a body in chunks', async () => {
    const code = await curl(
      '-w',
      '%{http_code}',
      '-H',
      'Transfer-Encoding: chunked',
      '-T',
      file('body'),
      url('/chunks'),
    );
    assert.equal(code, '201');
    await curl('-o', file('back'), url('/chunks'));
    assert.deepEqual(readFileSync(file('back')), readFileSync(file('body')));
  });

  it('keeps its connection for several requests, over HTTP/1.1 and on request 1.0', async () => {
    const opened = '%{http_code} %{num_connects}\n';
    await curl('-X', 'PUT', '-d', 'v', url('/k'));
    assert.equal(
      await curl('-o', file('out'), '-w', opened, url('/k'), '-o', file('out'), url('/k')),
      '200 1\n200 0\n',
    );
    assert.equal(await curl('--http1.0', url('/k')), 'v');
  });

  it('calls remote procedures with forms, and asks with conditions', async () => {
    assert.equal(await curl('--data-urlencode', 'key=a b', '--data-urlencode', 'value=ü', url('/rpc/set')), '');
    assert.equal(await curl('-d', 'key=a+b', url('/rpc/get')), 'value\tü\n');
    const head = await curl('-I', url('/k'));
    const [, tag = ''] = /^ETag: (.*)\r$/im.exec(head) ?? [];
    assert.equal(await curl('-w', '%{http_code}', '-H', `If-None-Match: ${tag}`, url('/k')), '304');
    assert.equal(await curl('-w', '%{http_code}', '-X', 'DELETE', '-H', 'If-Match: "0"', url('/k')), '412');
  });

  it('speaks HTTPS, verifies the certificate, and refuses one that it does not know', async () => {
    const secure = `https://localhost:${ports.http}/k`;
    const here = ['--resolve', `localhost:${ports.http}:127.0.0.1`];
    assert.equal(await curl(...here, '--cacert', file('ca/ca.crt'), secure), 'v');
    assert.equal(await curl(...here, '--cacert', file('ca/ca.crt'), '--tls-max', '1.2', secure), 'v');
    await assert.rejects(curl(...here, secure), /certificate/);
  });
});

describe("Node's HTTP clients", () => {
  it('keep a connection alive through an agent', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const reused: boolean[] = [];
    try {
      for (let i = 0; i < 3; i++) {
        const status = await new Promise((resolve, reject) => {
          const request = httpRequest({ port: ports.plain, path: `/agent${i}`, method: 'PUT', agent }, (response) => {
            reused.push(request.reusedSocket);
            response.resume().on('end', () => resolve(response.statusCode));
          });
          request.on('error', reject);
          request.end(`v${i}`);
        });
        assert.equal(status, 201);
      }
      assert.deepEqual(reused, [false, true, true]);
    } finally {
      agent.destroy();
    }
  });

  it('wait for 100 Continue, and stream a body in chunks', async () => {
    const events: string[] = [];
    await new Promise<void>((resolve, reject) => {
      const headers = { Expect: '100-continue', 'Transfer-Encoding': 'chunked' };
      const request = httpRequest({ port: ports.plain, path: '/streamed', method: 'PUT', headers }, (response) => {
        events.push(String(response.statusCode));
        response.resume().on('end', resolve);
      });
      request.on('error', reject);
      request.on('continue', () => {
        events.push('continue');
        for (let i = 0; i < 10; i++) request.write('0123456789');
        request.end();
      });
      request.flushHeaders();
    });
    assert.deepEqual(events, ['continue', '201']);
    const response = await fetch(`http://127.0.0.1:${ports.plain}/streamed`);
    assert.equal(await response.text(), '0123456789'.repeat(10));
  });

  it('fetch over HTTPS', async () => {
    const text = await new Promise((resolve, reject) => {
      const options = {
        host: 'localhost',
        port: ports.http,
        path: '/streamed',
        ca: readFileSync(file('ca/ca.crt')),
        family: 4,
      };
      httpsRequest(options, (response) => {
        let body = '';
        response.on('data', (chunk: Buffer) => (body += chunk.toString())).on('end', () => resolve(body));
      })
        .on('error', reject)
        .end();
    });
    assert.equal(text, '0123456789'.repeat(10));
  });

  it('undici pipelines requests, and reads each answer in its place', async () => {
    const client = new Client(`http://127.0.0.1:${ports.plain}`, { pipelining: 20 });
    try {
      const keys = Array.from({ length: 200 }, (_, i) => `/undici${i}`);
      await Promise.all(
        keys.map(async (path) => {
          const { statusCode, body } = await client.request({ path, method: 'PUT', body: path, idempotent: true });
          await body.dump();
          assert.equal(statusCode, 201);
        }),
      );
      const texts = await Promise.all(
        keys.map(async (path) => await (await client.request({ path, method: 'GET' })).body.text()),
      );
      assert.deepEqual(texts, keys);
    } finally {
      await client.close();
    }
  });

  it('reach the same records as memcached clients do', async () => {
    const client = new MemcacheClient({ server: `127.0.0.1:${ports.memcached}` });
    try {
      await client.set('shared', 'hello');
      const response = await fetch(`http://127.0.0.1:${ports.plain}/shared`);
      assert.equal(await response.text(), 'hello\0\0\0\0', 'flags lie behind the value');
    } finally {
      client.shutdown();
    }
  });
});
