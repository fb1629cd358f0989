/** `tokaido encryption`: keys for values on the disk, and their exchange. */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { TokaidoError } from '../base/errors.js';
import { readKey, replace } from '../pki/files.js';
import { action, print, printJson } from './output.js';

const KEY_BYTES = 32;

export function registerEncryption(program: Command): void {
  const encryption = program
    .command('encryption')
    .description('work with the keys that values are encrypted with on the disk')
    .addHelpText(
      'after',
      '\nExample, for a new key (the running node encrypts everything anew; status says when the old key can go):\n  tokaido encryption key --file ./data.keys\n  tokaido status',
    );
  encryption
    .command('key')
    .description('make a key and put it before those in the file: the node uses it for what is written from then on')
    .requiredOption('--file <file>', 'file of keys (encryption.keyFile); made when it is missing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido encryption key --file ./data.keys')
    .action(
      action(async ({ file, json }: { readonly file: string; readonly json?: boolean }) => {
        const { parseKeys } = await import('../node/data/encryption.js');
        const before = existsSync(file) ? readKey(file, 'file of encryption keys') : '';
        if (before !== '') parseKeys(before, file);
        const text = `${randomBytes(KEY_BYTES).toString('hex')}\n${before}`;
        const keys = parseKeys(text, file);
        replace(file, text, 'key');
        if (json === true) printJson({ file, keys: keys.map(({ id }) => id) });
        else
          print(
            `key ${keys[0].id} is the current one of ${keys.length} in ${file}\nkeep a copy: without it the data is lost`,
          );
      }),
    );
  encryption
    .command('reseal')
    .description('encrypt everything anew at once, of a node that does not run: one that runs does it by itself')
    .requiredOption('--config <file>', 'configuration of the node')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido encryption reseal --config ./node.yaml')
    .action(
      action(async (flags: { readonly config: string; readonly json?: boolean }) => {
        const [{ loadConfig }, { Encryption }, { reseal }, { systemRuntime }, { jsonLogger }] = await Promise.all([
          import('../node/config/load.js'),
          import('../node/data/encryption.js'),
          import('../node/data/reseal.js'),
          import('../node/runtime.js'),
          import('../node/logger.js'),
        ]);
        const config = await loadConfig(flags.config);
        if (config.encryption === false) throw new TokaidoError('CONFIG', `${flags.config} has no encryption section`);
        const runtime = systemRuntime();
        const encryption = new Encryption(config.encryption, { runtime, log: jsonLogger('warn') });
        try {
          const { looked, written } = await reseal(config, { encryption, runtime });
          if (flags.json === true) printJson({ looked, written, key: encryption.keyId });
          else
            print(
              `${written} of ${looked} values written anew; all that are encrypted need key ${encryption.keyId} only`,
            );
        } finally {
          encryption.close();
        }
      }),
    );
}
