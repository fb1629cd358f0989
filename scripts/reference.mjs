#!/usr/bin/env node
/**
 * Writes the pages of docs/reference that are made from code: the configuration from its schema, the command line from
 * its help. Needs a build. With `--check` it writes nothing and fails when a page differs; `test/tidy` runs it so.
 *
 *   node scripts/task.mjs reference [-- --check]
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { createProgram } from '../dist/src/cli/program.js';
import { schema } from '../dist/src/node/config/schema.js';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const HELP_WIDTH = 100;

const MADE = (from) => `<!-- Made by scripts/reference.mjs from ${from}; do not edit. -->`;
const cell = (text) => text.replace(/\|/g, '\\|').replace(/\n/g, ' ');
const code = (value) => `\`${cell(typeof value === 'string' ? value : JSON.stringify(value))}\``;

/** What a node of the schema accepts, in words. */
function accepts(node) {
  if (node.const !== undefined) return code(node.const);
  if (node.enum !== undefined) return node.enum.map(code).join(', ');
  if (node.anyOf !== undefined) {
    const types = node.anyOf.map(({ type }) => type).join();
    if (types === 'integer,string') return 'number, or text with a unit';
    return [...new Set(node.anyOf.map(accepts))].join(' or ');
  }
  if (node.type === 'array') return `list of ${accepts(node.items)}`;
  if (node.type === 'object') return 'section';
  if (node.type === 'integer') return `number${range(node)}`;
  return node.type === 'string' ? 'text' : node.type;
}

function range({ minimum, maximum, exclusiveMinimum }) {
  const least = minimum ?? (exclusiveMinimum === undefined ? undefined : exclusiveMinimum + 1);
  const most = maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum;
  if (least === undefined && most === undefined) return '';
  return most === undefined ? `, at least ${least}` : `, ${least} to ${most}`;
}

/** The keys below a node: of the node itself, of a list's items, of the alternatives that are sections. */
function* children(node) {
  const places = [node, node.items, ...(node.anyOf ?? []), ...(node.items?.anyOf ?? [])];
  for (const place of places) {
    for (const [key, child] of Object.entries(place?.properties ?? {})) {
      yield { key, child, required: place.required?.includes(key) === true };
    }
  }
}

function* rows(node, path) {
  for (const { key, child, required } of children(node)) {
    const name = path === '' ? key : `${path}.${key}`;
    const isList = child.type === 'array';
    const isSection = child.type === 'object';
    const fallback = required ? '**required**' : child.default === undefined || isSection ? '' : code(child.default);
    const kind = isSection ? '' : accepts(child);
    yield `| \`${name}\` | ${kind} | ${isEmpty(child.default) ? '' : fallback} | ${cell(child.description ?? '')} |`;
    yield* rows(child, isList ? `${name}[]` : name);
  }
}

function isEmpty(value) {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}

function configPage() {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  const lines = [...children(json)].flatMap(({ key, child, required }) => {
    const part = { properties: { [key]: child }, required: required ? [key] : [] };
    return [...rows(part, '')];
  });
  return `${MADE('src/node/config/schema.ts')}

# Configuration

One YAML file per node, given to \`tokaido serve --config\`. \`tokaido config check FILE\` validates it and prints it with all defaults; a wrong key is named with its line and the nearest right one. Relative paths start at the file's folder. A change needs a restart.

Sizes are bytes, or texts with \`B\`, \`KiB\`, \`MiB\`, \`GiB\`, \`TiB\`. Durations (names that end in \`Ms\`) are milliseconds, or texts with \`ms\`, \`s\`, \`m\`, \`h\`, \`d\`. \`[]\` in a name stands for each item of a list.

| key | accepts | default | meaning |
| --- | --- | --- | --- |
${lines.join('\n')}

Rules between keys: a root needs \`sid\` and has no \`upstreams\`; a relay and an edge need \`upstreams\` and have no \`sid\` and no \`postgres\`; an edge never listens for followers; \`store.flush: at-stop\` is not for a root, nor together with \`durability: flushed\`; each \`postgres.tables[].database\` is one of \`databases\`; \`limits.transactionBytes\` has room for a value and a key, and is at most 64 MiB.
`;
}

/** Every command that does something, with the words that lead to it. */
function* commands(command, words) {
  const subcommands = command.commands.filter((sub) => sub.name() !== 'help');
  if (subcommands.length === 0) yield { command, words };
  for (const sub of subcommands) yield* commands(sub, [...words, sub.name()]);
}

function helpOf(command) {
  let text = '';
  command.configureHelp({ helpWidth: HELP_WIDTH }).configureOutput({
    writeOut: (part) => {
      text += part;
    },
    getOutHasColors: () => false,
  });
  command.outputHelp();
  return text.trimEnd();
}

function cliPage() {
  const sections = [...commands(createProgram(), ['tokaido'])].map(({ command, words }) => {
    return `## ${words.join(' ')}\n\n\`\`\`text\n${helpOf(command)}\n\`\`\`\n`;
  });
  return `${MADE("the commands' help")}

# Command line

Results go to standard output, everything else to standard error. With \`--json\` a command prints one JSON object; its error is then one too, on standard error: \`{"error":{"code","message","hint"}}\` with a code of [errors.md](errors.md).

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed: the message says what, the hint what to do |
| 2 | wrong usage or wrong configuration: trying again will not help |
| 3 | \`get\`, \`remove\`, \`set --replace\`: no such record |
| 70 | \`serve\`: an invariant broke or an error nobody expected; the log says which. The data on the disk is whole: start it again |

${sections.join('\n')}`;
}

/** As the formatter of the project has it, so that formatting never makes a page differ from the code. */
function formatted(name, text) {
  const biome = join(root, 'node_modules', '@biomejs', 'biome', 'bin', 'biome');
  const { status, stdout, stderr } = spawnSync(process.execPath, [biome, 'format', `--stdin-file-path=${name}`], {
    cwd: root,
    input: text,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`cannot format ${name}: ${stderr}`);
  return stdout;
}

const pages = { 'docs/reference/config.md': configPage(), 'docs/reference/cli.md': cliPage() };
let differ = 0;
for (const [name, made] of Object.entries(pages)) {
  const text = formatted(name, made);
  const path = join(root, name);
  if (process.argv.includes('--check')) {
    let current = '';
    try {
      current = readFileSync(path, 'utf8');
    } catch {
      // Missing: it differs.
    }
    if (current === text) continue;
    differ++;
    process.stderr.write(`${name} differs from the code: run npm run reference\n`);
  } else {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }
}
process.exit(differ === 0 ? 0 : 1);
