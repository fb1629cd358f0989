/** Policies, scopes, encryption and the audit log in a configuration: what is taken, and what is refused with which words. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseConfig } from '../../src/node/config/load.js';

const ROOT = 'role: root\nsid: 1\ndata: data\ndatabases: [one, two]\n';
const TLS = 'tls: { certificate: c, key: k, clientCa: a }';

function refusal(text: string): string {
  try {
    parseConfig(`${ROOT}${text}`, '/etc/tokaido/node.yaml');
  } catch (error) {
    assert.equal((error as { code?: string }).code, 'CONFIG', String(error));
    return (error as Error).message;
  }
  return 'accepted';
}

const clients = (listener: string): string => refusal(`listen: { clients: ${listener} }`);

describe('a policy in a configuration', () => {
  it('says whom a rule is for, and what whole databases are', () => {
    const allow = 'databases: [one], allow: [read]';
    assert.match(clients(`{ policy: [{ ${allow} }] }`), /must say whom it is for: certificates, tokens, or anonymous/);
    const admin = 'databases: [one], prefixes: [a], allow: [admin]';
    assert.match(clients(`{ policy: [{ anonymous: true, ${admin} }] }`), /admin is of whole databases/);
    assert.match(clients('{ policy: [{ anonymous: true, databases: [], allow: [read] }] }'), /databases/);
    assert.match(clients('{ policy: [{ anonymous: true, databases: [one], allow: [fly] }] }'), /allow/);
    assert.equal(clients(`{ policy: [{ anonymous: true, ${allow} }] }`), 'accepted');
  });

  it('needs the CA for names, the file for tokens, and TLS for tokens beyond this machine', () => {
    const rule = (who: string): string => `policy: [{ ${who}, databases: [one], allow: [read] }]`;
    assert.match(clients(`{ ${rule('certificates: [a]')} }`), /needs tls\.clientCa/);
    assert.match(clients(`{ ${rule('tokens: [a]')} }`), /needs the file they are in/);
    assert.match(clients(`{ tokens: t, ${rule('anonymous: true')} }`), /the file such a policy/);
    assert.match(clients(`{ host: 10.0.0.1, tokens: t, ${rule('tokens: [a]')} }`), /cross the network in plaintext/);
    assert.equal(clients(`{ host: 10.0.0.1, ${TLS}, tokens: t, ${rule('tokens: [a]')} }`), 'accepted');
    assert.equal(clients(`{ host: "::1", tokens: t, ${rule('tokens: [a]')} }`), 'accepted');
    const memcached = refusal(`listen: { memcached: { ${TLS}, ${rule('tokens: [a], anonymous: true')} } }`);
    assert.match(memcached, /memcached has no tokens|unknown key|needs the file/);
  });
});

describe('a listener for clients that others than this machine reach', () => {
  const OPEN =
    /on 10\.0\.0\.1:\d+ whoever reaches it could do everything: give it a policy, or tls with clientCa, or say policy: insecure-allow/;

  it('is not opened to whoever comes, unless somebody says so in full', () => {
    assert.match(clients('{ host: 10.0.0.1 }'), OPEN);
    assert.match(clients('[{ port: 1 }, { host: 10.0.0.1, port: 2 }]'), OPEN);
    assert.match(clients('{ host: 10.0.0.1, tls: { certificate: c, key: k } }'), OPEN);
    assert.match(clients('{ host: 0.0.0.0 }'), /on 0\.0\.0\.0:1978 whoever/);
    assert.match(clients('{ host: "::" }'), /on :::1978 whoever/);
    assert.match(refusal('listen: { memcached: { host: 10.0.0.1, readOnly: true } }'), OPEN);
    assert.match(clients('{ host: 10.0.0.1, policy: insecure }'), /policy/);
    for (const listener of [
      '{}',
      '{ host: localhost }',
      '{ host: "::1" }',
      `{ host: 10.0.0.1, ${TLS} }`,
      '{ host: 10.0.0.1, policy: [{ anonymous: true, databases: [one], allow: [read] }] }',
      '{ host: 10.0.0.1, policy: insecure-allow-everything-to-everybody }',
    ])
      assert.equal(clients(listener), 'accepted', listener);
  });
});

describe('scopes in a configuration', () => {
  it('say whom a rule is for, and have room in the handshake', () => {
    const scopes = (rules: string): string => refusal(`replication: { scopes: ${rules} }`);
    assert.match(scopes('[{ databases: [one] }]'), /must say whom it is for: names, or roles/);
    assert.match(scopes('[{ roles: [client], databases: [one] }]'), /roles/);
    const many = JSON.stringify([...Array(2000).keys()].map((n) => `database${n}`));
    assert.match(scopes(`[{ roles: [edge], databases: ${many} }]`), /more than 16384 bytes/);
    assert.equal(scopes('[]'), 'accepted');
    assert.equal(scopes('all'), 'accepted');
    assert.equal(scopes('certificates'), 'accepted');
    assert.match(scopes('everybody'), /scopes/);
    assert.equal(scopes('[{ names: [a-*], roles: [edge], databases: ["*"], prefixes: [x] }]'), 'accepted');
  });
});

describe('encryption in a configuration', () => {
  const encryption = (section: string, more = ''): string => refusal(`encryption: { ${section} }\n${more}`);

  it('needs one source of keys, and databases that are there', () => {
    assert.match(encryption('databases: [one]'), /needs keyFile or keyCommand/);
    assert.match(encryption('keyFile: k, keyCommand: [c], databases: [one]'), /one of them/);
    assert.match(encryption('keyFile: k, databases: [three]'), /names three, which is not in databases/);
    const config = parseConfig(`${ROOT}encryption: { keyFile: k, databases: [two] }`, '/etc/tokaido/node.yaml');
    assert.equal(config.encryption !== false && config.encryption.keyFile, '/etc/tokaido/k');
    assert.deepEqual(
      config.databases.map(({ encrypted }) => encrypted),
      [false, true],
    );
  });

  it('refuses what would bring values to the disk in plain', () => {
    const all = 'keyFile: k, databases: ["*"]';
    const memory = 'databases: [":"]\nmemory: { saveIntervalMs: 5s }';
    const text = ROOT.replace('databases: [one, two]\n', '');
    assert.throws(
      () => parseConfig(`${text}${memory}\nencryption: { ${all} }`, '/etc/tokaido/node.yaml'),
      /encrypted databases in memory cannot be saved/,
    );
    assert.match(encryption(all, 'backup: { commands: /usr/lib/tokaido }'), /copies of encrypted databases in plain/);
    assert.equal(encryption(all), 'accepted');
  });
});
