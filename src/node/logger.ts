/** The real logger: JSON lines on standard error, written before the call returns, so that the last words are there. */
import { destination, pino } from 'pino';
import type { Logger } from '../base/logger.js';

export function jsonLogger(level: string): Logger {
  return pino(
    { level, base: null, timestamp: () => `,"time":"${new Date().toISOString()}"` },
    destination({ dest: 2, sync: true }),
  );
}
