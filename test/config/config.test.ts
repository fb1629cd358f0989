/** The configuration: what is accepted, and that every refusal says file, line, key and what to do. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { z } from 'zod';
import { hidePassword } from '../../src/cli/config.js';
import { type JsonSchema, loadConfig, parseConfig } from '../../src/node/config/load.js';
import { memcachedSettings } from '../../src/node/config/memcached-options.js';
import { schema } from '../../src/node/config/schema.js';

const FILE = '/etc/tokaido/node.yaml';
const ROOT = 'role: root\nsid: 1\ndata: data\n';
const EDGE = 'role: edge\ndata: data\nupstreams: [{ address: "10.0.0.1:1979" }]\n';
const FEED = `${ROOT}databases: [dns]
postgres:
  connection: postgresql://me:hidden@host/db
  tables:
    - { table: public.t, database: dns, key: "{a}", value: { column: v } }
`;

function refusal(text: string): string {
  try {
    parseConfig(text, FILE);
  } catch (error) {
    assert.equal((error as { code?: string }).code, 'CONFIG', String(error));
    return (error as Error).message;
  }
  throw new Error(`accepted: ${text}`);
}

describe('a configuration', () => {
  it('needs little: everything else has a default, paths are beside the file', () => {
    const root = parseConfig(ROOT, FILE);
    assert.equal(root.data, '/etc/tokaido/data');
    assert.deepEqual(root.identity, {
      certificate: '/etc/tokaido/node.crt',
      key: '/etc/tokaido/node.key',
      ca: '/etc/tokaido/ca.crt',
      renew: true,
    });
    assert.deepEqual(root.listen, {
      clients: [{ host: '127.0.0.1', port: 1978, tls: false }],
      memcached: [],
      replication: { host: '127.0.0.1', port: 1979 },
      kyotoTycoon: false,
      admin: { host: '127.0.0.1', port: 1980 },
    });
    assert.equal(root.durability, 'flushed');
    const edge = parseConfig(EDGE, FILE);
    assert.equal(edge.listen.replication, false);
    assert.equal(edge.durability, 'committed');
    assert.deepEqual(edge.upstreams, [{ host: '10.0.0.1', port: 1979, name: undefined, priority: 0 }]);
    assert.equal(parseConfig(`${ROOT.replace('data: data', 'data: /var/lib/x')}`, FILE).data, '/var/lib/x');
    assert.equal(
      parseConfig(FEED.replace('tables:', 'passwordFile: pw\n  tables:'), FILE).postgres?.passwordFile,
      '/etc/tokaido/pw',
    );
  });

  it('accepts every key at its default', () => {
    const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
    let keys = 0;
    const visit = (node: JsonSchema, path: readonly string[]): void => {
      for (const [key, child] of Object.entries(node.properties ?? {})) {
        const full = [...path, key];
        if (child.default !== undefined && child.properties === undefined) {
          keys++;
          const value = full.reduceRight<unknown>((inner, name) => ({ [name]: inner }), child.default);
          const base = { role: 'root', sid: 1, data: 'data' };
          const whole =
            full[0] === 'postgres'
              ? {
                  ...base,
                  databases: ['d'],
                  postgres: {
                    connection: 'postgresql://h/d',
                    tables: [{ table: 'a.b', database: 'd', key: '{k}', value: { json: 'all' } }],
                    ...(value as { postgres: object }).postgres,
                  },
                }
              : { ...base, ...(value as object) };
          parseConfig(JSON.stringify(whole), FILE);
        }
        // Inside these sections there are keys without a default, too.
        if (['tls', 'kyotoTycoon', 'signing', 'lines', 'announce'].includes(key)) continue;
        for (const option of [child, ...(child.anyOf ?? [])]) visit(option, full);
      }
    };
    visit(json, []);
    assert.ok(keys > 40, `${keys} keys with a default`);
  });

  it('takes lines as the one source of a root, with a file and a database that is there', () => {
    const lines = `${ROOT}lines: { file: input.jsonl }\n`;
    assert.equal(parseConfig(lines, FILE).lines?.file, '/etc/tokaido/input.jsonl');
    assert.equal(parseConfig(`${ROOT}lines: { file: "-" }\n`, FILE).lines?.file, '-');
    assert.throws(() => parseConfig(`${ROOT}lines: { file: a, database: none }\n`, FILE), /is none, which is not in/);
    assert.throws(() => parseConfig(`${FEED}\nlines: { file: a, database: d }\n`, FILE), /a root has one source/);
  });

  it('opens a listener for Kyoto Tycoon followers only to peers that are named in full', () => {
    const listen = (text: string): string => `${ROOT}\nlisten: { kyotoTycoon: { port: 1976, ${text} } }`;
    assert.throws(() => parseConfig(listen(''), FILE), /listen.kyotoTycoon needs allow .* or tls with clientCa/);
    assert.throws(() => parseConfig(listen('tls: { certificate: c, key: k }'), FILE), /needs allow/);
    assert.throws(() => parseConfig(listen('allow: [10.0.0.0/8]'), FILE), /allow/);
    const { kyotoTycoon } = parseConfig(listen('allow: [10.0.0.5, "fd00::5"]'), FILE).listen;
    assert.deepEqual(kyotoTycoon, { host: '127.0.0.1', port: 1976, allow: ['10.0.0.5', 'fd00::5'], tls: false });
    const secure = parseConfig(listen('tls: { certificate: c, key: k, clientCa: a }'), FILE).listen.kyotoTycoon;
    assert.equal(secure === false || secure.tls === false || secure.tls.key, '/etc/tokaido/k');
  });

  it('follows a Kyoto Tycoon server at a root only, as its one source, into databases it has', () => {
    const follow = 'kyotoTycoon: { upstream: "kt.example:1978" }';
    assert.deepEqual(parseConfig(`${ROOT}\n${follow}`, FILE).kyotoTycoon?.upstream, { host: 'kt.example', port: 1978 });
    assert.throws(() => parseConfig(`${EDGE}\n${follow}`, FILE), /only a root follows a Kyoto Tycoon server/);
    assert.throws(() => parseConfig(`${FEED}\n${follow}`, FILE), /a root has one source/);
    const unknown = 'kyotoTycoon: { upstream: "kt.example:1978", databases: [none] }';
    assert.throws(() => parseConfig(`${ROOT}\n${unknown}`, FILE), /names none, which is not in databases/);
  });

  it('lets those announce themselves who may be followed, and those discover who follow', () => {
    const announce = 'replication: { announce: { address: "relay-1.example:1979" } }\n';
    const relay = EDGE.replace('edge', 'relay');
    assert.deepEqual(parseConfig(relay + announce, FILE).replication.announce, {
      address: { host: 'relay-1.example', port: 1979 },
      priority: 0,
    });
    assert.equal(parseConfig(EDGE, FILE).replication.discover, false);
    assert.equal(parseConfig(`${EDGE}replication: { discover: true }\n`, FILE).replication.discover, true);
    assert.throws(() => parseConfig(EDGE + announce, FILE), /node\.yaml:4: an edge has no followers/);
    assert.throws(() => parseConfig(`${ROOT}replication: { discover: true }\n`, FILE), /a root follows nobody/);
    const closed = `${relay}listen: { replication: false }\n${announce}`;
    assert.throws(() => parseConfig(closed, FILE), /nobody can follow this node/);
    const unknown = `${relay}replication: { announce: { address: "h:1", regoin: eu } }\n`;
    assert.throws(() => parseConfig(unknown, FILE), /unknown key replication\.announce\.regoin/);
    const service = `${relay}replication: { announce: { address: "_tokaido._tcp.example:1979" } }\n`;
    assert.throws(() => parseConfig(service, FILE), /must be an address or a host, not a name of SRV records/);
    const long = `${relay}region: ${'x'.repeat(65)}\n${announce}`;
    assert.throws(() => parseConfig(long, FILE), /a region that is announced has at most 64 characters/);
  });

  it('takes names of SRV records as upstreams, and DNS servers to ask', () => {
    const named = EDGE.replace('10.0.0.1:1979', '_tokaido._tcp.example.com');
    assert.deepEqual(parseConfig(named, FILE).upstreams, [
      { host: '_tokaido._tcp.example.com', port: 0, name: undefined, priority: 0 },
    ]);
    for (const wrong of ['_tokaido._udp.example.com', '_tokaido._tcp', '_tokaido', '_a b._tcp.c'])
      assert.throws(() => parseConfig(EDGE.replace('10.0.0.1:1979', wrong), FILE), /must be HOST:PORT, or a name as/);
    const servers = (text: string): string => `${EDGE}replication: { dns: [${text}] }\n`;
    const good = ['10.0.0.53', '127.0.0.1:8600', '[fd00::53]:53', 'fd00::53'];
    assert.deepEqual(parseConfig(servers(JSON.stringify(good).slice(1, -1)), FILE).replication.dns, good);
    for (const wrong of ['dns.example.com', '10.0.0.53:99999', '1.2.3', '""'])
      assert.throws(() => parseConfig(servers(wrong), FILE), /must be the address of a DNS server/, wrong);
  });

  it('every key says what it means', () => {
    const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
    for (const [name, child] of Object.entries(json.properties ?? {})) {
      if (['role', 'data'].includes(name)) continue;
      assert.ok(child.description, name);
    }
  });

  it('takes sizes and durations with units, and numbers', () => {
    const with_ = (text: string) => parseConfig(`${ROOT}${text}`, FILE);
    assert.equal(with_('log: { retainBytes: 1.5GiB }').log.retainBytes, 1.5 * 2 ** 30);
    assert.equal(with_('log: { retainBytes: 12345 }').log.retainBytes, 12_345);
    assert.equal(with_('log: { retainAgeMs: 30d }').log.retainAgeMs, 30 * 86_400_000);
    assert.equal(with_('replication: { heartbeatMs: 250 ms }').replication.heartbeatMs, 250);
  });

  const refused: readonly (readonly [string, string, RegExp])[] = [
    [
      'an unknown key, with the nearest',
      `${ROOT}durabilty: flushed`,
      /node\.yaml:4: unknown key durabilty: did you mean durability\?/,
    ],
    [
      'an unknown nested key',
      `${ROOT}store:\n  flsh: commits`,
      /node\.yaml:5: unknown key store\.flsh: did you mean flush\?/,
    ],
    [
      'an unknown key of a listener',
      `${ROOT}listen:\n  admin:\n    prot: 1`,
      /node\.yaml:6: unknown key listen\.admin\.prot: did you mean port\?/,
    ],
    [
      'an unknown key in a list',
      `${FEED}      expire: { column: e }`.replace(
        '- { table: public.t, database: dns, key: "{a}", value: { column: v } }',
        '- table: public.t\n      database: dns\n      key: "{a}"\n      value: { column: v }',
      ),
      /node\.yaml:12: unknown key postgres\.tables\.0\.expire: did you mean expires\?/,
    ],
    ['an unknown key far from all, with what is known', `${ROOT}logging: { zzzzzz: 1 }`, /known are level/],
    [
      'a listener with half of its TLS',
      `${ROOT}listen:\n  clients:\n    - port: 1\n      tls: { certificate: a }`,
      /node\.yaml:7: listen\.clients\.0\.tls\.key: is missing/,
    ],
    ['no role', 'data: data', /node\.yaml: role: is missing/],
    ['no data', 'role: root\nsid: 1', /data: is missing/],
    ['an unknown role', 'role: leaf\ndata: d', /node\.yaml:1: role: .*"root"\|"relay"\|"edge"/],
    [
      'an unknown unit',
      `${ROOT}log: { retainBytes: 10MB }`,
      /node\.yaml:4: log\.retainBytes: .*units B, KiB, MiB, GiB, TiB.*not "10MB"/,
    ],
    ['a duration without a unit in a text', `${ROOT}log: { retainAgeMs: "10" }`, /retainAgeMs: .*30s.*not "10"/],
    ['a negative size', `${ROOT}log: { retainBytes: -1 }`, /retainBytes: must be from 1 to/],
    ['an interval of nothing', `${ROOT}replication: { heartbeatMs: 0 }`, /heartbeatMs: must be from 1 to 2147483647/],
    [
      'an interval that timers cannot hold',
      `${ROOT}replication: { silenceMs: 40d }`,
      /silenceMs: must be from 1 to 2147483647/,
    ],
    ['a port out of range', `${ROOT}listen: { admin: { port: 70000 } }`, /listen\.admin\.port: .*65535/],
    ['a sid out of range', 'role: root\nsid: 65536\ndata: d', /node\.yaml:2: sid: .*65535/],
    ['an address without a port', EDGE.replace(':1979', ''), /upstreams\.0\.address: must be HOST:PORT/],
    ['an address with a port out of range', EDGE.replace(':1979', ':70000'), /upstreams\.0\.address: .*1 to 65535/],
    ['a root without sid', 'role: root\ndata: d', /node\.yaml:1: a root needs sid/],
    ['a root with upstreams', `${ROOT}upstreams: [{ address: "h:1" }]`, /node\.yaml:4: a root follows nobody/],
    ['a relay with peers', `${EDGE.replace('edge', 'relay')}peers: [{ address: "h:1" }]`, /only roots have peers/],
    ['peers without identity', `${ROOT}identity: false\npeers: [{ address: "h:1" }]`, /prove who they are/],
    ['an edge without upstreams', 'role: edge\ndata: d', /an edge needs upstreams/],
    ['a relay without upstreams', 'role: relay\ndata: d', /a relay needs upstreams/],
    ['an edge with sid', `${EDGE}sid: 1`, /only a root has a sid/],
    ['an edge with a feed', FEED.replace(ROOT, EDGE), /only a root is fed from Postgres/],
    ['a root that does not flush', `${ROOT}store: { flush: at-stop }`, /node\.yaml:4: at-stop is for followers/],
    ['a database named twice', `${ROOT}databases: [a, a]`, /named twice/],
    ['a database without a usable name', `${ROOT}databases: ['a b']`, /databases\.0: .*no name that could be used/],
    [
      'a table for an unknown database',
      FEED.replace('[dns]', '[other]'),
      /table public\.t goes to database dns, which is not in databases/,
    ],
    ['a table without a schema', FEED.replace('public.t', 't'), /node\.yaml:7: t is not SCHEMA\.TABLE/],
    ['a key template with a stray brace', FEED.replace('{a}', '{a'), /brace without its partner/],
    ['a table mapping of no known form', FEED.replace('{ column: v }', '{ colunm: v }'), /colunm/],
    [
      'a connection that is no URL',
      FEED.replace('postgresql://me:hidden@host/db', 'host=h password=hidden'),
      /postgres\.connection: must be a URL such as/,
    ],
    ['values larger than a transaction', `${ROOT}limits: { valueBytes: 60MiB }`, /transactionBytes must have room/],
    ['transactions larger than a frame', `${ROOT}limits: { transactionBytes: 65MiB }`, /at most 64MiB/],
    ['a key that is there twice', `${ROOT}sid: 2`, /is not valid YAML: Map keys must be unique.*line 4/s],
    ['broken YAML', `${ROOT}listen: [`, /is not valid YAML/],
    ['an alias without an anchor', `${ROOT}databases: *x`, /is not valid YAML/],
    ['something that is no map', '- a', /the configuration: /],
  ];
  for (const [what, text, says] of refused) {
    it(`refuses ${what}`, () => {
      const message = refusal(text);
      assert.match(message, says);
      assert.ok(message.startsWith(FILE), 'the file comes first');
      assert.doesNotMatch(message, /hidden/);
    });
  }

  it('invariant 9: any text is accepted or refused with CONFIG, nothing else', () => {
    const keys = fc.constantFrom(
      'role',
      'sid',
      'data',
      'listen',
      'upstreams',
      'databases',
      'postgres',
      'log',
      'limits',
    );
    const text = fc.oneof(
      fc.string(),
      fc.dictionary(keys, fc.jsonValue()).map((value) => JSON.stringify(value)),
    );
    fc.assert(
      fc.property(text, (yaml) => {
        try {
          parseConfig(yaml, FILE);
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'CONFIG', String((error as Error).stack));
        }
      }),
      { numRuns: 500 },
    );
  });

  it('a file that cannot be read is named', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tokaido-config-'));
    try {
      await assert.rejects(loadConfig(join(folder, 'none.yaml')), /cannot read the configuration .*none\.yaml: ENOENT/);
      writeFileSync(join(folder, 'node.yaml'), ROOT);
      assert.equal((await loadConfig(join(folder, 'node.yaml'))).data, join(folder, 'data'));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('no password is shown, wherever the URL has it', () => {
    for (const url of [
      'postgresql://u:p%40hidden@h/d',
      'postgresql://u:p@hidden@h/d',
      'postgresql://u@h/d?password=hidden&x=1',
    ]) {
      assert.doesNotMatch(hidePassword(url), /hidden/);
    }
    assert.equal(hidePassword('postgresql://u@h:5433/d'), 'postgresql://u@h:5433/d');
  });
});

describe('a memcached listener in a configuration', () => {
  const listener = (text: string): string => `${ROOT}databases: [a, ':']\nlisten: { memcached: ${text} }\n`;

  it('needs nothing: it has a default for everything', () => {
    const [found] = parseConfig(listener('{}'), FILE).listen.memcached;
    const switches = { flags: false, queue: false, readOnly: false, tls: false };
    assert.deepEqual(found, { host: '127.0.0.1', port: 11_211, queueTimeoutMs: 10_000, ...switches });
  });

  it('may be several, each with its database and its TLS', () => {
    const several = listener('[{ database: a }, { port: 2, database: "1", tls: { certificate: c, key: k } }]');
    const [first, second] = parseConfig(several, FILE).listen.memcached;
    assert.equal(first?.database, 'a');
    assert.deepEqual(second?.tls, { certificate: '/etc/tokaido/c', key: '/etc/tokaido/k', names: [] });
  });

  it('is refused with a database that is not there, as a queue that may not change, and with names without a CA', () => {
    assert.match(refusal(listener('{ database: b }')), /node\.yaml:5: database b is not in databases/);
    assert.match(refusal(listener('{ database: "2" }')), /database 2 is not in databases/);
    assert.match(refusal(listener('{ queue: true, readOnly: true }')), /a queue cannot be readOnly/);
    assert.match(
      refusal(listener('{ tls: { certificate: c, key: k, names: [x] } }')),
      /tls\.names needs tls\.clientCa/,
    );
    assert.match(refusal(listener('{ flag: true }')), /unknown key listen\.memcached\.flag: did you mean flags\?/);
  });

  it("reads the options of Kyoto Tycoon's plug-in", () => {
    assert.deepEqual(memcachedSettings(''), {});
    assert.deepEqual(memcachedSettings('host=0.0.0.0#port=11212#opts=fq#qtout=2.5#db=1#th=8#tout=10'), {
      host: '0.0.0.0',
      port: 11_212,
      flags: true,
      queue: true,
      queueTimeoutMs: 2500,
      database: '1',
    });
    assert.deepEqual(memcachedSettings('#opts=r'), { readOnly: true });
    assert.throws(() => memcachedSettings('opts=x'), { code: 'CONFIG', message: /the letters are f, q and r/ });
    assert.throws(() => memcachedSettings('qtout=soon'), { code: 'CONFIG', message: /must be a number/ });
    assert.throws(() => memcachedSettings('frob=1'), { code: 'CONFIG', message: /unknown memcached option: frob=1/ });
  });
});
