#!/usr/bin/env node
/**
 * Puts what the command `tokaido` consists of into a few files: a node starts in two thirds of the time, because it
 * finds and reads a handful of modules instead of some hundreds (docs/decisions/bundle.md). What has native parts, or is
 * seldom needed, stays a package of its own. The licenses of what is inside go beside it.
 *
 *   node scripts/bundle.mjs
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
// As deep as dist/src: whoever looks for package.json finds it from either.
const folder = join(root, 'dist', 'bundle');

rmSync(folder, { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: root,
  entryPoints: { 'cli/main': 'dist/src/cli/main.js' },
  outdir: folder,
  chunkNames: 'cli/[name]-[hash]',
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  external: ['lmdb', 'pg'],
  // Packages written for CommonJS ask for Node's modules by `require`.
  banner: {
    js: "import { createRequire as makeRequire } from 'node:module'; const require = makeRequire(import.meta.url);",
  },
  sourcemap: true,
  metafile: true,
  logLevel: 'warning',
});

const packages = new Set(
  Object.keys(metafile.inputs).flatMap((path) => /^(node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []),
);
const texts = [...packages].sort().map((path) => {
  const { name, version, license } = JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8'));
  const file = readdirSync(join(root, path)).find((entry) => /^licen[cs]e/i.test(entry));
  const text = file === undefined ? '' : readFileSync(join(root, path, file), 'utf8');
  return `${name} ${version}, ${license}\n\n${text.trim()}\n`;
});
writeFileSync(join(folder, 'LICENSES.txt'), texts.join(`\n${'-'.repeat(80)}\n\n`));
