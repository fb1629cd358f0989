#!/usr/bin/env node
/**
 * Turns src/store/murmur.wat into the module that the server loads, as text inside a source file: then nothing but the
 * compiler of TypeScript runs at a build. With `--check` it writes nothing and fails when they differ; `test/tidy` runs
 * it so.
 *
 *   node scripts/wasm.mjs [--check]
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import wabt from 'wabt';

const folder = join(dirname(dirname(fileURLToPath(import.meta.url))), 'src', 'store');
const LINE = 100;

const parsed = (await wabt()).parseWat('murmur.wat', readFileSync(join(folder, 'murmur.wat'), 'utf8'));
const text = Buffer.from(parsed.toBinary({}).buffer).toString('base64');
const lines = text.match(new RegExp(`.{1,${LINE}}`, 'g')).map((line) => `  '${line}'`);
const source = `/** Made by scripts/wasm.mjs from murmur.wat; do not edit. */
export const MURMUR_CODE = [
${lines.join(',\n')},
].join('');
`;

const target = join(folder, 'murmur-code.ts');
if (!process.argv.includes('--check')) {
  writeFileSync(target, source);
} else if (readFileSync(target, 'utf8') !== source) {
  process.stderr.write('src/store/murmur-code.ts is not what murmur.wat says: run node scripts/wasm.mjs\n');
  process.exit(1);
}
