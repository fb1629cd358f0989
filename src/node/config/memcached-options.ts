/**
 * The options of Kyoto Tycoon's memcached plug-in (`ktserver -plex`), as settings of a memcached listener:
 * `port=11211#opts=fq#qtout=5`. The plug-in's threads and network time-out mean nothing here and are passed over.
 */
import { TokaidoError } from '../../base/errors.js';

const HINT = 'known are host, port, opts (f, q, r), qtout, db; th and tout have no effect';
const OPTION = /^([a-z]+)=(.*)$/;

/** Settings as they would stand under `listen.memcached` in a configuration file. Errors: `CONFIG`. */
export function memcachedSettings(expression: string): object {
  const settings: Record<string, unknown> = {};
  for (const element of expression.split('#').filter((text) => text !== '')) {
    const [, name, value = ''] = OPTION.exec(element) ?? [];
    switch (name) {
      case 'host':
        settings.host = value;
        break;
      case 'port':
        settings.port = numberOf(element, value);
        break;
      case 'opts':
      case 'options':
        Object.assign(settings, lettersOf(element, value));
        break;
      case 'qtout':
      case 'qtimeout':
        settings.queueTimeoutMs = Math.round(numberOf(element, value) * 1000);
        break;
      case 'db':
        settings.database = value;
        break;
      case 'th':
      case 'thnum':
      case 'tout':
      case 'timeout':
        break;
      default:
        throw new TokaidoError('CONFIG', `unknown memcached option: ${element}`, { hint: HINT });
    }
  }
  return settings;
}

function numberOf(element: string, value: string): number {
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value);
  throw new TokaidoError('CONFIG', `memcached option ${element}: must be a number`, { hint: HINT });
}

function lettersOf(element: string, letters: string): object {
  if (!/^[fqr]*$/.test(letters)) {
    throw new TokaidoError('CONFIG', `memcached option ${element}: the letters are f, q and r`, { hint: HINT });
  }
  const given = (letter: string, setting: string): object => (letters.includes(letter) ? { [setting]: true } : {});
  return { ...given('f', 'flags'), ...given('q', 'queue'), ...given('r', 'readOnly') };
}
