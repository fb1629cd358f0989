/** `tokaido client-token`: makes a token for a client without a certificate. */
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import { makeToken, TokenTable } from '../pki/client-tokens.js';
import { readKey } from '../pki/files.js';
import { action, print, printJson } from './output.js';

interface Flags {
  readonly file: string;
  readonly days?: string;
  readonly json?: boolean;
}

const DAY_MS = 86_400_000;

export function registerClientToken(program: Command): void {
  program
    .command('client-token')
    .argument('<name>', 'name of the token: what a policy calls it')
    .description('make a token for HTTP clients without a certificate; it is printed once, the file keeps its hash')
    .requiredOption('--file <file>', 'file of tokens (listen.clients.tokens) to add it to')
    .option('--days <number>', 'how long it is valid; for ever when absent')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExample:\n  tokaido client-token deploy --file ./tokens --days 90\n  curl -H "Authorization: Bearer TOKEN" https://db.example:1978/flags/dark-mode\n\nA node reads the file again by itself. To take a token back, remove its line.',
    )
    .action(
      action(async (name: string, { file, days, json }: Flags) => {
        const endsMs = days === undefined ? undefined : Date.now() + daysOf(days) * DAY_MS;
        const { token, line } = makeToken(name, endsMs);
        addLine(file, name, line);
        const valid = endsMs === undefined ? undefined : new Date(endsMs).toISOString();
        if (json === true) printJson({ name, token, file, valid });
        else print(token);
      }),
    );
}

function daysOf(text: string): number {
  const days = Number(text);
  if (days > 0 && days <= 36_500) return days;
  throw new TokaidoError('CONFIG', `--days must be more than 0 and at most 36500, not ${text}`);
}

function addLine(file: string, name: string, line: string): void {
  const exists = existsSync(file);
  if (exists && TokenTable.parse(readKey(file, 'file of tokens'), file).names.includes(name)) {
    throw new TokaidoError('CONFIG', `${file} has a token ${name} already`, {
      hint: 'remove its line first, or choose another name and let both be valid for a while',
    });
  }
  const before = exists ? readFileSync(file, 'utf8') : '';
  const gap = before === '' || before.endsWith('\n') ? '' : '\n';
  writeFileSync(file, `${gap}${line}\n`, { flag: 'a', mode: 0o600 });
  if (!exists) chmodSync(file, 0o600);
}
