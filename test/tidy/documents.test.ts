/** Documents that tell what is: links, commands, and the reference against the code. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, it } from 'node:test';
import type { Command } from 'commander';
import { parse } from 'yaml';
import { createProgram } from '../../src/cli/program.js';
import { parseConfig } from '../../src/node/config/load.js';
import type { Node } from '../../src/node/node.js';
import { registerNodeMetrics } from '../../src/node/status/node-metrics.js';
import type { StallWatch } from '../../src/node/status/stall-watch.js';
import { PROTOCOL_ERRORS } from '../../src/protocol/errors.js';
import { repository } from '../support/postgres.js';

const root = repository();
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

function documentsOf(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true })
    .map((path) => join(folder, String(path)))
    .filter((path) => path.endsWith('.md'));
}

const documents = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...documentsOf('docs'),
  ...documentsOf('src'),
];

/** The name that a heading gets as an anchor. */
function anchorOf(heading: string): string {
  return heading
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replace(/ /g, '-');
}

function anchors(path: string): string[] {
  return [...readFileSync(path, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchorOf(heading as string));
}

/** Lines that a reader may type: those of code blocks, and code between the words. */
function* commandLines(text: string): Generator<string> {
  for (const [, block] of text.matchAll(/^```\w*\n([\s\S]*?)^```/gm)) {
    const whole = (block as string).replace(/\\\n/g, ' ');
    for (const [, line] of whole.matchAll(/^(?:sudo )?(?:-u \w+ )?tokaido (?!\[)(.+)$/gm)) yield line as string;
  }
  for (const [, line] of text.matchAll(/(?<!`)`tokaido ([^`]+)`/g)) yield line as string;
}

/** What is wrong with a command line, or `undefined`. */
function mistakeIn(line: string): string | undefined {
  const words = (/^(?:"[^"]*"|'[^']*'|[^#|&;>'"])*/.exec(line)?.[0] ?? '').trim().split(/\s+/);
  let command: Command = createProgram();
  while (command.commands.length > 0) {
    const word = words.shift();
    if (word === undefined) return undefined;
    if (word === '--help' || word === '--version') return undefined;
    const next = command.commands.find((sub) => sub.name() === word);
    if (next === undefined) return `there is no command ${word}`;
    command = next;
  }
  const known = ['--help', ...command.options.map(({ long }) => long)];
  const unknown = words.filter((word) => word.startsWith('--') && !known.includes(word));
  return unknown.length === 0 ? undefined : `there is no option ${unknown.join(', ')}`;
}

/** First cells of a table's rows, where they are code, with the rest of the row. */
function tableRows(page: string): Map<string, string[]> {
  const rows = [...read(page).matchAll(/^\| `([^`]+)`[^|]*\|(.*)\|$/gm)];
  return new Map(
    rows.map(([, name, rest]) => [name as string, (rest as string).split(/(?<!\\)\|/).map((cell) => cell.trim())]),
  );
}

describe('the documents', () => {
  it('link to pages and headings that exist', () => {
    const dead: string[] = [];
    for (const document of documents) {
      for (const [, target] of read(document).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target as string)) continue;
        const [page, anchor] = (target as string).split('#') as [string, string?];
        const path = page === '' ? join(root, document) : resolve(root, dirname(document), page);
        const found = existsSync(path) && (anchor === undefined || anchors(path).includes(anchor));
        if (!found) dead.push(`${document}: ${target}`);
      }
    }
    assert.deepEqual(dead, []);
  });

  it('name only commands and options that exist', () => {
    const wrong: string[] = [];
    let seen = 0;
    for (const document of documents) {
      for (const line of commandLines(read(document))) {
        seen++;
        const mistake = mistakeIn(line);
        if (mistake !== undefined) wrong.push(`${document}: tokaido ${line}: ${mistake}`);
      }
    }
    assert.deepEqual(wrong, []);
    assert.ok(seen > 20, 'command lines are found');
  });

  it('show configurations that a node would take', () => {
    let seen = 0;
    for (const document of documents) {
      for (const [, block] of read(document).matchAll(/^```yaml\n([\s\S]*?)^```/gm)) {
        const text = block as string;
        const isSection = text.startsWith('postgres:');
        if (!isSection && !/^role: /m.test(text)) continue;
        seen++;
        parseConfig(isSection ? `role: root\nsid: 1\ndata: data\ndatabases: [dns]\n${text}` : text, document);
      }
    }
    assert.ok(seen >= 7, 'configurations are found');
  });

  it('have a reference of the configuration and the command line that equals the code', () => {
    const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'reference.mjs'), '--check'], {
      encoding: 'utf8',
    });
    assert.equal(stderr, '');
    assert.equal(status, 0);
  });

  it('describe every metric that a node registers, and no other', () => {
    const registered = new Map<string, string>();
    const recorder = (type: string) => (name: string) => registered.set(`tokaido_${name}`, type);
    // Registration takes names and functions; nothing of the node is read before somebody scrapes.
    const node = { metrics: { gauge: recorder('gauge'), counter: recorder('counter') }, identity: { identity: {} } };
    registerNodeMetrics(node as unknown as Node, {} as StallWatch);
    const described = tableRows('docs/reference/metrics.md');
    assert.deepEqual([...described.keys()].sort(), [...registered.keys()].sort());
    for (const [name, type] of registered) assert.equal(described.get(name)?.[0], type, name);
  });

  it('have alert rules on metrics that there are', () => {
    const described = tableRows('docs/reference/metrics.md');
    const { groups } = parse(readFileSync(join(root, 'docs/operate/alerts.yml'), 'utf8')) as {
      groups: { rules: { alert: string; expr: string }[] }[];
    };
    const rules = groups.flatMap((group) => group.rules);
    assert.ok(rules.length >= 10, 'rules are found');
    for (const { alert, expr } of rules) {
      const metrics = expr.match(/tokaido_\w+/g) ?? [];
      assert.ok(metrics.length > 0 || expr.includes('up{'), alert);
      for (const metric of metrics) assert.ok(described.has(metric), `${alert}: ${metric}`);
    }
  });

  it('describe every error code with its HTTP status, and no other', () => {
    const described = tableRows('docs/reference/errors.md');
    assert.deepEqual([...described.keys()].sort(), Object.keys(PROTOCOL_ERRORS).sort());
    for (const [code, { http }] of Object.entries(PROTOCOL_ERRORS)) {
      assert.match(described.get(code)?.[1] ?? '', new RegExp(`^${http}\\b`), code);
    }
  });

  it('are reachable from the README', () => {
    const reached = new Set<string>();
    const visit = (document: string): void => {
      if (reached.has(document)) return;
      reached.add(document);
      for (const [, target] of read(document).matchAll(/\]\(([^)\s#]+\.md)[^)]*\)/g)) {
        const path = relative(root, resolve(root, dirname(document), target as string));
        if (existsSync(join(root, path))) visit(path);
      }
    };
    visit('README.md');
    assert.deepEqual(
      documents.filter((document) => !document.startsWith('src') && !reached.has(document)),
      [],
    );
  });
});
