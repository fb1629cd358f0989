/** All rows, by family. A new family is one line here. */
import type { Row } from './row.js';
import { CLIENT_ROWS } from './rows/clients.js';
import { FAN_OUT_ROWS } from './rows/fan-out.js';
import { NODE_ROWS } from './rows/node.js';
import { POSTGRES_ROWS } from './rows/postgres.js';
import { REPLICATION_ROWS } from './rows/replication.js';
import { STALL_ROWS } from './rows/stall.js';
import { TLS_ROWS } from './rows/tls.js';

export const ROWS: readonly Row[] = [
  ...CLIENT_ROWS,
  ...STALL_ROWS,
  ...REPLICATION_ROWS,
  ...TLS_ROWS,
  ...FAN_OUT_ROWS,
  ...NODE_ROWS,
  ...POSTGRES_ROWS,
];
