/** Every torture, one line each. To add one: a module that exports a `Torture`, and its name here. */
import { attacks } from './attacks.js';
import { clients } from './clients.js';
import { codecs } from './codecs.js';
import { diskFull } from './disk-full.js';
import { fuzz, fuzzKyotoTycoon, fuzzMemcached } from './fuzz.js';
import { cluster, kill, killAny } from './kill.js';
import { mutants } from './mutants.js';
import { postgres } from './postgres.js';
import { postgresIdle } from './postgres-idle.js';
import { rotate } from './rotate.js';
import { simulation } from './simulate.js';
import type { Torture } from './torture.js';

export const TORTURES: readonly Torture[] = [
  attacks,
  clients,
  cluster,
  codecs,
  diskFull,
  fuzz,
  fuzzKyotoTycoon,
  fuzzMemcached,
  kill,
  killAny,
  mutants,
  postgres,
  postgresIdle,
  rotate,
  simulation,
];
