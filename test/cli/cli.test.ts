/** The command line without a node: help, usage, certificates, configuration; real processes and their exit codes. */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { json, tokaido } from '../support/cli.js';
import { cliPath } from '../support/cluster.js';

describe('tokaido', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-cli-'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  const commands = [
    '',
    'serve',
    'status',
    'get',
    'set',
    'remove',
    'ca',
    'ca init',
    'ca issue',
    'pg',
    'feed',
    'pg setup',
    'pg check',
    'pg preview',
    'pg verify',
    'pg copy',
    'config',
    'config check',
  ];
  for (const command of commands) {
    it(`${command} --help shows an example and ends with 0`, async () => {
      const { code, out, err } = await tokaido([...command.split(' ').filter(Boolean), '--help']);
      assert.deepEqual([code, err], [0, '']);
      assert.match(out.toString(), new RegExp(`\\nExamples?:\\n  tokaido ${command}`));
    });
  }

  it('--version prints the version of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(cliPath(), '../../../../package.json'), 'utf8')) as {
      version: string;
    };
    assert.equal((await tokaido(['--version'])).out.toString(), `${version}\n`);
  });

  it('wrong usage ends with 2 and says how to get help', async () => {
    for (const wrong of [
      ['nonsense'],
      ['get'],
      ['get', 'a', '--nonsense'],
      ['serve'],
      ['set', 'a', 'b', '--add', '--replace'],
      ['set', 'a', 'b', '--ttl', '1s', '--expires', '2030-01-01'],
      ['ca', 'issue', '--ca', 'x', '--role', 'king', '--name', 'y'],
    ]) {
      const { code, err } = await tokaido(wrong);
      assert.equal(code, 2, wrong.join(' '));
      assert.match(err, /--help/);
    }
    for (const [wrong, says] of [
      [['set', 'a', 'b', '--ttl', '5 minutes'], /--ttl 5 minutes is not a duration such as/],
      [['set', 'a', 'b', '--expires', 'soon'], /--expires soon is not a date/],
      [['set', 'a'], /a value, - or --file is needed/],
      [['set', 'a', '--file', '/nonexistent'], /cannot read --file \/nonexistent: ENOENT/],
      [['get', 'a', '--server', 'nowhere'], /nowhere is not HOST:PORT/],
    ] as const) {
      const { code, err } = await tokaido(wrong);
      assert.equal(code, 2, wrong.join(' '));
      assert.match(err, says);
      assert.doesNotMatch(err, /\n +at /, 'no stack for a mistake of the user');
    }
  });

  it('ca init and issue: keys for their owner only, nothing overwritten, roles in the certificates', async () => {
    const ca = join(folder, 'pki');
    const made = json(await tokaido(['ca', 'init', '--dir', ca, '--name', 'test', '--json']));
    assert.deepEqual(Object.keys(made).sort(), ['clusterId', 'files', 'identity', 'notAfter', 'serial']);
    assert.equal(statSync(join(ca, 'ca.key')).mode & 0o777, 0o600);
    assert.equal(statSync(join(ca, 'ca.crt')).mode & 0o777, 0o644);
    const key = readFileSync(join(ca, 'ca.key'));
    const again = await tokaido(['ca', 'init', '--dir', ca]);
    assert.equal(again.code, 1);
    assert.match(again.err, /ca\.crt exists already; nothing was overwritten\nhint: /);
    assert.deepEqual(readFileSync(join(ca, 'ca.key')), key);
    for (const role of ['root', 'relay', 'edge', 'client']) {
      const out = join(folder, role);
      const issued = json(
        await tokaido(['ca', 'issue', '--ca', ca, '--role', role, '--name', `${role}-1`, '--out', out, '--json']),
      );
      assert.equal(issued.identity, `tokaido://${made.clusterId}/${role}/${role}-1`);
      assert.equal(statSync(join(out, 'node.key')).mode & 0o777, 0o600);
      assert.equal(statSync(join(out, 'node.crt')).mode & 0o777, 0o644);
      assert.ok(existsSync(join(out, 'ca.crt')) && !existsSync(join(out, 'ca.key')));
    }
    const twice = await tokaido([
      'ca',
      'issue',
      '--ca',
      ca,
      '--role',
      'edge',
      '--name',
      'x',
      '--out',
      join(folder, 'edge'),
    ]);
    assert.equal(twice.code, 1);
    assert.match(twice.err, /exists already/);
    const noCa = await tokaido(['ca', 'issue', '--ca', folder, '--role', 'edge', '--name', 'x', '--json']);
    assert.equal(noCa.code, 1);
    assert.equal((JSON.parse(noCa.err) as { error: { code: string } }).error.code, 'IDENTITY');
    assert.equal(
      (await tokaido(['ca', 'issue', '--ca', ca, '--role', 'edge', '--name', 'x', '--days', 'many'])).code,
      2,
    );
    chmodSync(join(ca, 'ca.key'), 0o640);
    const open = await tokaido([
      'ca',
      'issue',
      '--ca',
      ca,
      '--role',
      'edge',
      '--name',
      'x',
      '--out',
      join(folder, 'y'),
    ]);
    assert.equal(open.code, 1);
    assert.match(open.err, /can be read by others\nhint: run: chmod 600/);
    assert.ok(!existsSync(join(folder, 'y')));
  });

  it('config check ends with 0 and shows all, without passwords; with 2 for what is wrong', async () => {
    const file = join(folder, 'node.yaml');
    writeFileSync(
      file,
      'role: root\nsid: 1\ndata: data\ndatabases: [d]\npostgres: { connection: "postgresql://me:hidden@h/db", tables: [{ table: a.b, database: d, key: "{k}", value: { json: all } }] }\n',
    );
    const good = await tokaido(['config', 'check', file]);
    assert.equal(good.code, 0);
    assert.match(good.out.toString(), /is valid; with all defaults/);
    const shown = await tokaido(['config', 'check', file, '--json']);
    assert.equal(json(shown).data, join(folder, 'data'));
    assert.doesNotMatch(good.out.toString() + shown.out.toString(), /hidden/);
    writeFileSync(file, 'role: root\nsid: 1\ndata: data\ndurabilty: flushed\n');
    const bad = await tokaido(['config', 'check', file]);
    assert.equal(bad.code, 2);
    assert.match(bad.err, /node\.yaml:4: unknown key durabilty: did you mean durability\?\nhint: /);
    assert.equal((await tokaido(['config', 'check', join(folder, 'none.yaml')])).code, 2);
    assert.equal((await tokaido(['serve', '--config', file])).code, 2);
  });

  it('serve refuses a key that others can read, and a certificate of another role', async () => {
    const file = join(folder, 'edge', 'node.yaml');
    writeFileSync(
      file,
      'role: root\nsid: 1\ndata: data\nlisten: { clients: false, replication: false, admin: false }\n',
    );
    const role = await tokaido(['serve', '--config', file]);
    assert.equal(role.code, 2);
    assert.match(role.err, /says role root, the certificate says edge/);
    chmodSync(join(folder, 'edge', 'node.key'), 0o644);
    const open = await tokaido(['serve', '--config', file]);
    assert.equal(open.code, 1);
    assert.match(open.err, /node\.key can be read by others\nhint: run: chmod 600/);
  });
});
