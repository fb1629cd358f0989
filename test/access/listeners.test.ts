/** Policies on the client listeners of a real node: who may do what, by certificate, by token and without either, in each protocol. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type IncomingHttpHeaders, request as plainRequest } from 'node:http';
import { request } from 'node:https';
import { connect as connectPlain, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { stringify } from 'yaml';
import { TokaidoClient } from '../../src/client/client.js';
import { createCa, issueCertificate } from '../../src/pki/ca/ca.js';
import { tokaido } from '../support/cli.js';
import { eventually } from '../support/local-runtime.js';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

const folder = mkdtempSync(join(tmpdir(), 'tokaido-access-'));
const file = (name: string): string => join(folder, name);
const pem = (name: string): string => readFileSync(file(name), 'utf8');

const ports = { mixed: 0, certificates: 0, memcached: 0, plain: 0, plainMemcached: 0 };
let node: ServedNode;
let token = '';
let settings: object;

async function makeToken(name: string): Promise<string> {
  const { code, out, err } = await tokaido(['client-token', name, '--file', file('tokens')]);
  assert.equal(code, 0, err);
  return out.toString().trim();
}

before(async () => {
  const nowMs = Date.now();
  await createCa({ folder: file('ca'), name: 'ours', days: 10, nowMs });
  const issued = { ca: file('ca'), role: 'client', days: 2, nowMs } as const;
  await issueCertificate({ ...issued, out: file('server'), name: 'server', dns: ['localhost'], ip: ['127.0.0.1'] });
  for (const name of ['app', 'other']) await issueCertificate({ ...issued, out: file(name), name, dns: [], ip: [] });
  token = await makeToken('deploy');
  for (const name of Object.keys(ports) as (keyof typeof ports)[]) ports[name] = await freePort();
  const tls = { certificate: 'server/node.crt', key: 'server/node.key', clientCa: 'ca/ca.crt' };
  const app = { certificates: ['app'], databases: ['one'], prefixes: ['app/'], allow: ['read', 'write'] };
  settings = {
    role: 'root',
    sid: 1,
    identity: false,
    data: 'data',
    audit: { file: 'audit.log' },
    databases: ['one', 'two'],
    listen: {
      clients: [
        {
          port: ports.mixed,
          tls,
          tokens: 'tokens',
          policy: [
            app,
            { tokens: ['deploy'], databases: ['two'], allow: ['read', 'write', 'admin'] },
            { anonymous: true, databases: ['one'], prefixes: ['public/'], allow: ['read'] },
          ],
        },
        { port: ports.certificates, tls, policy: [app] },
        { port: ports.plain },
      ],
      memcached: [{ port: ports.memcached, tls, policy: [app] }, { port: ports.plainMemcached }],
      admin: { port: await freePort() },
    },
  };
  writeFileSync(file('node.yaml'), stringify(settings));
  node = await ServedNode.start(['--config', 'node.yaml'], folder);
  for (const key of ['app/a', 'public/p', 'secret']) await plainPut(`/one/${key}`, 'value');
  await plainPut('/two/t', 'value');
});
after(async () => {
  await node.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function plainPut(path: string, value: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const call = plainRequest({ port: ports.plain, host: '127.0.0.1', path, method: 'PUT' }, (reply) => {
      reply.resume();
      reply.on('end', resolve);
    });
    call.on('error', reject);
    call.end(value);
  });
}

interface Asked {
  readonly as?: string;
  readonly token?: string;
  readonly body?: string;
  readonly port?: number;
}

interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

async function http(method: string, path: string, { as, token: bearer, body, port }: Asked = {}): Promise<Reply> {
  const proof = as === undefined ? {} : { cert: pem(`${as}/node.crt`), key: pem(`${as}/node.key`) };
  const headers: Record<string, string> = bearer === undefined ? {} : { Authorization: `Bearer ${bearer}` };
  if (path.startsWith('/rpc/')) headers['Content-Type'] = 'text/tab-separated-values';
  const to = { host: '127.0.0.1', servername: 'localhost', port: port ?? ports.mixed, ca: pem('ca/ca.crt') };
  return await new Promise<Reply>((resolve, reject) => {
    const call = request({ ...to, ...proof, path, method, headers, agent: false }, (reply) => {
      let text = '';
      reply.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
      reply.on('end', () => resolve({ status: reply.statusCode ?? 0, headers: reply.headers, body: text }));
    });
    call.on('error', reject);
    call.end(body);
  });
}

const status = async (method: string, path: string, asked: Asked = {}): Promise<number> => {
  return (await http(method, path, { ...(method === 'PUT' ? { body: 'x' } : {}), ...asked })).status;
};

/** A connection over TLS that is asked and answers in bytes. */
async function dial(
  port: number,
  as: string,
): Promise<{ ask(text: string, bytes: number): Promise<string>; socket: TLSSocket }> {
  const proof = { cert: pem(`${as}/node.crt`), key: pem(`${as}/node.key`) };
  const socket = connect({ host: '127.0.0.1', servername: 'localhost', port, ca: pem('ca/ca.crt'), ...proof });
  let received = '';
  socket.on('data', (chunk: Buffer) => (received += chunk.toString('latin1')));
  socket.on('error', () => undefined);
  return {
    socket,
    ask: async (text, bytes) => {
      socket.write(Buffer.from(text, 'latin1'));
      await eventually('an answer', () => received.length >= bytes || socket.closed);
      const answer = received;
      received = '';
      return answer;
    },
  };
}

const u16 = (n: number): string => String.fromCharCode(n >> 8, n & 255);
const u32 = (n: number): string => u16(n >>> 16) + u16(n & 65_535);
const binaryGet = (...refs: (readonly [number, string])[]): string => {
  return `\xba\0\0\0\0${u32(refs.length)}${refs.map(([database, key]) => u16(database) + u32(key.length) + key).join('')}`;
};
const binarySet = (...refs: (readonly [number, string])[]): string => {
  const records = refs.map(
    ([database, key]) => `${u16(database)}${u32(key.length)}${u32(1)}${'\x7f'.repeat(8)}${key}x`,
  );
  return `\xb8\0\0\0\0${u32(refs.length)}${records.join('')}`;
};

describe('a policy on a listener for HTTP and the binary protocol', () => {
  it('lets REST read and write what the certificate, the token, or anybody may', async () => {
    assert.equal(await status('GET', '/one/public/p'), 200);
    assert.equal(await status('GET', '/one/app/a'), 403);
    assert.equal(await status('PUT', '/one/public/p'), 403);
    assert.equal(await status('GET', '/one/app/a', { as: 'app' }), 200);
    assert.equal(await status('PUT', '/one/app/b', { as: 'app' }), 201);
    assert.equal(await status('DELETE', '/one/app/b', { as: 'app' }), 204);
    assert.equal(await status('GET', '/one/secret', { as: 'app' }), 403);
    assert.equal(await status('GET', '/one/none', { as: 'app' }), 403, 'whether there is a record is not told');
    assert.equal(await status('GET', '/two/t', { as: 'app' }), 403);
    assert.equal(await status('GET', '/one/app/a', { as: 'other' }), 403);
    assert.equal(await status('GET', '/two/t', { token }), 200);
    assert.equal(await status('GET', '/one/public/p', { token }), 200, 'what holds for everybody holds with a token');
    assert.equal(await status('GET', '/one/app/a', { token }), 403);
    assert.equal(await status('GET', '/one/app/a', { as: 'app', token }), 200, 'both count');
  });

  it('says 401 for a token that is not valid, and how to ask', async () => {
    const { status: code, headers, body } = await http('GET', '/one/public/p', { token: `${token}x` });
    assert.equal(code, 401);
    assert.equal(headers['www-authenticate'], 'Bearer');
    assert.equal(headers['x-tokaido-error'], 'UNAUTHENTICATED');
    assert.ok(!body.includes(token));
    const rpc = await http('POST', '/rpc/void', { token: 'wrong' });
    assert.equal(rpc.status, 401);
    assert.match(rpc.body, /^ERROR\tDB: 4: no permission: /);
  });

  it('is enforced for remote procedures: records, bulk calls, searches, cursors and the server', async () => {
    const rpc = async (name: string, rows: string, asked: Asked = { as: 'app' }): Promise<Reply> => {
      return await http('POST', `/rpc/${name}`, { ...asked, body: rows });
    };
    assert.equal((await rpc('get', 'key\tapp/a')).status, 200);
    const refused = await rpc('get', 'key\tsecret');
    assert.equal(refused.status, 403);
    assert.equal(refused.headers['x-tokaido-error'], 'FORBIDDEN');
    assert.match(
      refused.body,
      /^ERROR\tDB: 4: no permission: the policy of this listener does not let you read this key/,
    );
    assert.equal((await rpc('get_bulk', '_app/a\t\n_secret\t')).status, 403);
    assert.equal((await rpc('set_bulk', '_app/n\t1\n_secret\t1')).status, 403);
    assert.equal((await rpc('check', 'key\tapp/n')).status, 450, 'nothing of the refused call was done');
    assert.equal((await rpc('increment', 'key\tsecret\nnum\t1')).status, 403);
    const matched = await rpc('match_prefix', 'prefix\t');
    assert.match(matched.body, /_app\/a\t0/);
    assert.doesNotMatch(matched.body, /secret/);
    assert.match((await rpc('match_regex', 'regex\t.*')).body, /num\t2\n/, 'its own, and what everybody may read');
    assert.equal((await rpc('cur_jump', 'CUR\t1\nkey\tsecret')).status, 450);
    for (const name of ['status', 'clear', 'report', 'vacuum', 'synchronize', 'ulog_list', 'tune_replication']) {
      assert.equal((await rpc(name, '')).status, 403, name);
    }
    assert.equal((await rpc('status', 'DB\ttwo', { token })).status, 200);
    assert.equal((await rpc('status', 'DB\tone', { token })).status, 403);
    assert.equal((await rpc('report', '', { token })).status, 403, 'the server is not the database two');
    assert.equal((await rpc('get', 'DB\ttwo\nkey\tt')).body, (await rpc('get', 'DB\tnone\nkey\tt')).body);
  });

  it('is enforced for the binary protocol, whose refusal is one byte', async () => {
    const { ask, socket } = await dial(ports.mixed, 'app');
    const found = await ask(binaryGet([0, 'app/a']), 30);
    assert.ok(found.startsWith('\xba\0\0\0\x01') && found.endsWith('app/avalue'), JSON.stringify(found));
    assert.equal(await ask(binaryGet([0, 'app/a'], [0, 'secret']), 1), '\xbf');
    assert.equal(await ask(binaryGet([1, 't']), 1), '\xbf');
    assert.equal(await ask(binarySet([0, 'app/z'], [1, 'app/z']), 1), '\xbf');
    assert.equal(await ask(binaryGet([0, 'app/z']), 5), '\xba\0\0\0\0', 'nothing of the refused call was done');
    assert.equal(await ask(binarySet([0, 'app/z']), 5), '\xb8\0\0\0\x01');
    // A token belongs to its request: the next one in the binary protocol is the certificate's again.
    const withToken = `GET /two/t HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`;
    assert.match(await ask(withToken, 50), /^HTTP\/1\.1 200/);
    assert.equal(await ask(binaryGet([1, 't']), 1), '\xbf');
    socket.destroy();
  });

  it('does not speak at all to a certificate that may do nothing, and the log says so', async () => {
    assert.equal(await status('GET', '/one/app/a', { as: 'app', port: ports.certificates }), 200);
    await assert.rejects(http('GET', '/one/app/a', { as: 'other', port: ports.certificates }));
    await eventually('the refusal is logged', () => /the policy allows nothing to other/.test(node.log));
    await assert.rejects(http('GET', '/one/app/a', { port: ports.certificates }));
  });
});

describe('a policy on a listener for memcached', () => {
  it('is enforced for the old commands and the meta commands', async () => {
    const { ask, socket } = await dial(ports.memcached, 'app');
    const refusal = /^SERVER_ERROR the policy of this listener does not let you .*\r\n$/;
    assert.equal(await ask('set app/m 0 0 1\r\nx\r\n', 8), 'STORED\r\n');
    assert.equal(await ask('get app/m\r\n', 25), 'VALUE app/m 0 1\r\nx\r\nEND\r\n');
    for (const command of [
      'get app/m secret',
      'set secret 0 0 1\r\nx',
      'delete secret',
      'incr secret 1',
      'mg secret v',
      'ms secret 1\r\nx',
      'flush_all',
      'flush_all 9',
      'stats',
      'stats reset',
    ]) {
      assert.match(await ask(`${command}\r\n`, 20), refusal, command);
    }
    socket.destroy();
  });
});

describe('the client library and the command line', () => {
  const tls = (): { ca: string; serverName: string } => ({ ca: pem('ca/ca.crt'), serverName: 'localhost' });
  const server = (): string => `127.0.0.1:${ports.mixed}`;

  it('speak TLS, with a certificate or a token', async () => {
    const own = { certificate: pem('app/node.crt'), key: pem('app/node.key') };
    const app = new TokaidoClient({ server: server(), tls: { ...tls(), ...own } });
    await app.set('app/c', 'by certificate', { database: 'one' });
    assert.deepEqual(await app.getBulk(['app/c']), new Map([['app/c', Buffer.from('by certificate')]]));
    await assert.rejects(app.get('t', { database: 'two' }), { code: 'FORBIDDEN' });
    const deploy = new TokaidoClient({ server: server(), tls: tls(), token });
    await deploy.set('c', 'by token', { database: 'two' });
    assert.equal((await deploy.get('c', { database: 'two' }))?.value.toString(), 'by token');
    assert.equal((await deploy.call('get', { DB: 'two', key: 'c' })).rows.get('value')?.toString(), 'by token');
    await assert.rejects(deploy.setBulk([['c', 'x']], 1), { code: 'UNAUTHENTICATED' });
    const wrong = new TokaidoClient({ server: server(), tls: tls(), token: `${token}x` });
    await assert.rejects(wrong.get('p', { database: 'one' }), { code: 'UNAUTHENTICATED' });
    const elsewhere = new TokaidoClient({ server: server(), tls: { ...tls(), serverName: 'other.example' } });
    await assert.rejects(elsewhere.get('public/p', { database: 'one' }), { code: 'NETWORK' });
    assert.throws(() => new TokaidoClient({ token: 'a\r\nX-Other: b' }), { code: 'CONFIG' });
    for (const client of [app, deploy, wrong, elsewhere]) client.close();
    writeFileSync(file('token'), `${token}\n`);
    const flags = ['--server', server(), '--tls-ca', file('ca/ca.crt'), '--tls-server-name', 'localhost'];
    const read = await tokaido(['get', 'c', '--database', 'two', ...flags, '--token-file', file('token')]);
    assert.equal(read.out.toString(), 'by token', read.err);
    const proof = ['--tls-certificate', file('app/node.crt'), '--tls-key', file('app/node.key')];
    assert.equal(
      (await tokaido(['get', 'app/c', '--database', 'one', ...flags, ...proof])).out.toString(),
      'by certificate',
    );
    const anonymous = await tokaido(['get', 'app/c', '--database', 'one', ...flags]);
    assert.match(anonymous.err, /the policy of this listener does not let you read this key/);
  });
});

describe('a changed policy', () => {
  const adopt = async (text: string): Promise<void> => {
    const before = node.log.length;
    writeFileSync(file('node.yaml'), text);
    node.signal('SIGHUP');
    await eventually('it is read', () =>
      /the policies of the configuration hold|policies stay/.test(node.log.slice(before)),
    );
  };

  it('holds after SIGHUP, for open connections too; those who may do nothing any more are disconnected', async () => {
    const mixed = await dial(ports.mixed, 'app');
    const strict = await dial(ports.certificates, 'app');
    assert.match(await strict.ask(binaryGet([0, 'app/a']), 20), /app\/avalue$/);
    assert.match(await mixed.ask(binaryGet([0, 'app/a']), 20), /app\/avalue$/);
    const text = stringify(settings);
    await adopt(text.replaceAll('- app/', '- other/'));
    assert.equal(await mixed.ask(binaryGet([0, 'app/a']), 1), '\xbf');
    assert.equal(await mixed.ask(binaryGet([0, 'other/a']), 5), '\xba\0\0\0\0');
    await adopt(text.replaceAll('- app\n', '- nobody\n'));
    await eventually('the client is disconnected', () => strict.socket.closed);
    assert.equal(await mixed.ask(binaryGet([0, 'other/a']), 1), '\xbf', 'who may do something else stays');
    // A configuration that is not valid changes nothing.
    await adopt('role: nothing');
    assert.equal(await status('GET', '/one/app/a', { as: 'app' }), 403);
    await adopt(text);
    assert.equal(await status('GET', '/one/app/a', { as: 'app' }), 200);
    mixed.socket.destroy();
  });

  describe('of a listener that began without one', () => {
    const settingsWith = (plain: object, memcached: object): string => {
      const { listen, ...rest } = settings as { listen: { clients: object[]; memcached: object[] } };
      const clients = [...listen.clients.slice(0, 2), { port: ports.plain, ...plain }];
      const plainMemcached = { port: ports.plainMemcached, ...memcached };
      return stringify({ ...rest, listen: { ...listen, clients, memcached: [listen.memcached[0], plainMemcached] } });
    };
    const open = (port: number): Socket => {
      const socket = connectPlain({ host: '127.0.0.1', port });
      socket.on('error', () => undefined);
      return socket;
    };
    const answer = async (socket: Socket, text: string, end: RegExp): Promise<string> => {
      let received = '';
      const take = (chunk: Buffer): void => {
        received += chunk.toString('latin1');
      };
      socket.on('data', take);
      socket.write(text);
      await eventually(`an answer to ${text}`, () => end.test(received) || socket.closed);
      socket.off('data', take);
      return received;
    };
    const GET = 'GET /one/secret HTTP/1.1\r\nHost: x\r\n\r\n';
    const READ = { anonymous: true, databases: ['one'], prefixes: ['public/'], allow: ['read'] };

    it('holds after SIGHUP, without a restart: who is connected has to come again, and is judged by it', async () => {
      const [http, memcached] = [open(ports.plain), open(ports.plainMemcached)];
      assert.match(await answer(http, GET, /value$/), /^HTTP\/1\.1 200/);
      assert.match(await answer(memcached, 'get secret\r\n', /END/), /value/);
      await adopt(settingsWith({ policy: [READ] }, { policy: [READ] }));
      const adoptedMs = performance.now();
      await eventually('both are closed', () => http.closed && memcached.closed);
      assert.ok(performance.now() - adoptedMs < 1000);
      const [again, other] = [open(ports.plain), open(ports.plainMemcached)];
      assert.match(await answer(again, GET, /reader?\.|key/), /^HTTP\/1\.1 403/);
      assert.match(await answer(again, GET.replace('secret', 'public/p'), /value$/), /^HTTP\/1\.1 200/);
      assert.match(await answer(other, 'get secret\r\n', /\n/), /SERVER_ERROR.*read this key/);
      assert.match(await answer(other, 'get public/p\r\n', /END/), /value/);
    });

    it('may be by a token that nobody had to name before, and be taken back', async () => {
      const rules = [{ tokens: ['deploy'], databases: ['two'], allow: ['read'] }];
      await adopt(settingsWith({ policy: rules, tokens: 'tokens' }, { policy: [] }));
      const bearer = `GET /two/t HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`;
      const asked = open(ports.plain);
      assert.match(await answer(asked, bearer, /value$/), /^HTTP\/1\.1 200/);
      assert.match(await answer(asked, GET, /token/), /^HTTP\/1\.1 401/);
      const shut = open(ports.plainMemcached);
      await eventually('a policy of nothing turns everybody away', () => shut.closed);
      await adopt(stringify(settings));
      await eventually('it has to come again', () => asked.closed);
      assert.match(await answer(open(ports.plain), GET, /value$/), /^HTTP\/1\.1 200/);
      assert.match(node.log, /everybody may do everything on a listener that had a policy/);
    });
  });
});

describe('the file of tokens', () => {
  it('is for its owner only, and holds no token', () => {
    assert.equal(statSync(file('tokens')).mode & 0o777, 0o600);
    assert.ok(!pem('tokens').includes(token) && pem('tokens').startsWith('deploy '));
  });

  it('is read again when it changes: a new token is good, one that was removed is refused on open connections', async () => {
    const { ask, socket } = await dial(ports.mixed, 'app');
    const get = `GET /two/t HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`;
    assert.match(await ask(get, 50), /^HTTP\/1\.1 200/);
    const before = pem('tokens');
    writeFileSync(file('tokens'), 'half a line');
    await eventually('the mistake is logged', () => node.log.includes('tokens of clients: changed files are ignored'));
    assert.match(await ask(get, 50), /^HTTP\/1\.1 200/, 'a file that makes no sense changes nothing');
    writeFileSync(file('tokens'), before.replace('deploy', 'retired'));
    const fresh = await makeToken('deploy');
    await eventually('the file is read', () => node.log.includes('tokens of clients: read again'));
    await eventuallyStatus(200, fresh);
    assert.match(await ask(get, 50), /^HTTP\/1\.1 403/);
    socket.destroy();
  });

  async function eventuallyStatus(wanted: number, bearer: string): Promise<void> {
    for (let tries = 0; tries < 100; tries++) {
      if ((await status('GET', '/two/t', { token: bearer })) === wanted) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.fail(`never ${wanted}`);
  }
});

describe('the audit log of a node with policies', () => {
  it('says who connected, who was refused what, what changed, and holds no secret', async () => {
    const text = pem('audit.log');
    const events = text
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const of = (event: string): Record<string, unknown>[] => events.filter((one) => one.event === event);
    const [started] = of('node.started');
    assert.equal(started?.role, 'root');
    assert.deepEqual(String(started?.policies).split(',').length, 3);
    assert.ok(of('client.connected').some(({ names, fingerprint }) => String(names).startsWith('app,') && fingerprint));
    const refused = of('client.refused').find(({ names }) => String(names).startsWith('other,'));
    assert.match(String(refused?.reason), /the policy allows nothing to other/);
    assert.match(String(refused?.fingerprint), /^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
    const what = of('request.refused').map(({ names, token: name, what: asked }) => `${names} ${name} ${asked}`);
    assert.ok(what.some((one) => /^app,\S+ undefined read this key$/.test(one)));
    assert.ok(what.some((one) => one === ' deploy administer the server'));
    assert.ok(what.some((one) => one === ' undefined come with a token that is not valid'));
    assert.deepEqual(of('tokens.changed').at(-1)?.tokens, ['retired', 'deploy']);
    const [before, after] = of('policy.changed').map(({ policies }) => String(policies));
    assert.notEqual(before, after);
    for (const secret of [token, 'app/a', 'secret', 'value']) assert.ok(!text.includes(secret), secret);
    const verified = await tokaido(['audit', 'verify', file('audit.log')]);
    assert.equal(verified.code, 0, verified.err);
  });
});
