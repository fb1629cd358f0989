/** The version of this package, from its package.json. */
import { readFileSync } from 'node:fs';

/** The version in package.json, which lies next to the folder of the build, or of the sources. */
export const VERSION: string = (() => {
  for (const up of ['../../../package.json', '../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { version: string }).version;
    } catch {
      // Not there: the other layout.
    }
  }
  return 'unknown';
})();
