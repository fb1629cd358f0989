/** A configuration as an operator would write it. Beside the reading, for the command line loads it only when asked to. */
import { stringify } from 'yaml';

export function printConfig(config: object): string {
  return stringify(config).trimEnd();
}
