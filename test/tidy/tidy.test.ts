/** What lint cannot keep: layers, file sizes, words, dependencies. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, it } from 'node:test';
import { repository } from '../support/postgres.js';

/** What each folder of src may import. A folder may always import itself. */
const LAYERS: Readonly<Record<string, readonly string[]>> = {
  base: [],
  disk: ['base'],
  protocol: ['base'],
  engine: ['base'],
  log: ['base', 'engine'],
  store: ['base', 'engine', 'log'],
  commands: ['base', 'store'],
  pki: ['base', 'disk'],
  transport: ['base', 'protocol', 'pki', 'commands', 'store'],
  replication: ['base', 'protocol', 'log', 'store'],
  feeds: ['base', 'protocol', 'store', 'client'],
  client: ['base', 'protocol'],
  node: ['base', 'disk', 'protocol', 'engine', 'log', 'store', 'commands', 'pki', 'transport', 'replication', 'feeds'],
  cli: ['base', 'disk', 'protocol', 'client', 'pki', 'feeds', 'node'],
  sim: ['base', 'engine', 'log', 'store', 'replication', 'node'],
};

/** Layers that know neither time nor network nor disk: those come in from outside. */
const PURE = ['base', 'protocol', 'log', 'store', 'commands', 'replication', 'sim'];
const IMPURE = /\bDate\.now\(|\bMath\.random\(|\bsetTimeout\(|\bsetInterval\(|'node:(net|tls|fs|http|child_process)'/;

const root = repository();

function files(folder: string, ending: RegExp): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && ending.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

const sources = files('src', /\.ts$/);
const read = (path: string): string => readFileSync(path, 'utf8');
const name = (path: string): string => relative(root, path);
const layerOf = (path: string): string => relative(join(root, 'src'), path).split('/')[0] as string;

describe('the tree', () => {
  it('imports point down the layers only', () => {
    const wrong: string[] = [];
    for (const path of sources) {
      for (const [, target] of read(path).matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)) {
        const from = layerOf(path);
        const to = layerOf(resolve(dirname(path), target as string));
        if (from !== to && !LAYERS[from]?.includes(to)) wrong.push(`${name(path)} imports ${target}`);
      }
    }
    assert.deepEqual(wrong, []);
  });

  it('pure layers read no clock, no network and no disk', () => {
    // The version comes from package.json, once, at start.
    const pure = sources.filter((path) => PURE.includes(layerOf(path)) && !path.endsWith('base/version.ts'));
    assert.deepEqual(pure.filter((path) => IMPURE.test(read(path))).map(name), []);
  });

  it('every layer says what lives there', () => {
    for (const layer of Object.keys(LAYERS))
      assert.ok(existsSync(join(root, 'src', layer, 'README.md')), `src/${layer}/README.md`);
    assert.deepEqual(
      readdirSync(join(root, 'src')).filter((folder) => LAYERS[folder] === undefined),
      [],
    );
  });

  it('every file begins by saying what it is for, and none is too long', () => {
    const code = ['src', 'test', 'demo', 'bench']
      .filter((folder) => existsSync(join(root, folder)))
      .flatMap((folder) => files(folder, /\.ts$/));
    for (const path of code) {
      const text = read(path);
      assert.match(text, /^(#!.*\n)?\/\*\*/, `${name(path)} begins with a comment`);
      assert.ok(text.split('\n').length <= 600, `${name(path)} is too long`);
    }
  });

  it('nothing is left open', () => {
    const open = new RegExp(['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X'].map((word) => `\\b${word}\\b`).join('|'));
    const skipped = /\b(it|test|describe)\.(skip|todo|only)\(/;
    const all = ['src', 'test', 'demo'].flatMap((folder) => files(folder, /\.(ts|md)$/));
    assert.deepEqual(all.filter((path) => open.test(read(path)) || skipped.test(read(path))).map(name), []);
  });

  it('every dependency is justified, and the lock file records no addresses', () => {
    const { dependencies, devDependencies } = JSON.parse(read(join(root, 'package.json'))) as Record<
      string,
      Record<string, string>
    >;
    const reasons = read(join(root, 'docs', 'dependencies.md'));
    for (const dependency of Object.keys({ ...dependencies, ...devDependencies })) {
      assert.ok(reasons.includes(`\`${dependency}\``), `docs/dependencies.md says why ${dependency}`);
    }
    assert.doesNotMatch(read(join(root, 'package-lock.json')), /"resolved": "http/);
  });

  it('has the WebAssembly that its text says', () => {
    const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'wasm.mjs'), '--check'], {
      encoding: 'utf8',
    });
    assert.equal(status, 0, stderr);
  });
});
