/** The one table from error codes to what each client protocol says. */
import type { ErrorCode } from '../base/errors.js';

export interface ProtocolError {
  /** HTTP status. */
  readonly http: number;
  /** Kyoto Cabinet's error number and name, for `X-Kt-Error`. */
  readonly kt: string;
}

export const PROTOCOL_ERRORS: Readonly<Record<ErrorCode, ProtocolError>> = {
  NO_RECORD: { http: 404, kt: '7: no record' },
  DUPLICATE_RECORD: { http: 450, kt: '6: record duplication' },
  CONFLICT: { http: 450, kt: '8: logical inconsistency' },
  NO_DATABASE: { http: 400, kt: '2: invalid operation' },
  TOO_LARGE: { http: 413, kt: '2: invalid operation' },
  MALFORMED: { http: 400, kt: '2: invalid operation' },
  NOT_IMPLEMENTED: { http: 501, kt: '1: not implemented' },
  READ_ONLY: { http: 403, kt: '4: no permission' },
  FORBIDDEN: { http: 403, kt: '4: no permission' },
  UNAUTHENTICATED: { http: 401, kt: '4: no permission' },
  NOT_READY: { http: 503, kt: '2: invalid operation' },
  OVERLOADED: { http: 503, kt: '9: system error' },
  CORRUPT: { http: 500, kt: '5: broken file' },
  STORAGE: { http: 507, kt: '9: system error' },
  CONFIG: { http: 500, kt: '15: miscellaneous error' },
  IDENTITY: { http: 403, kt: '4: no permission' },
  REPLICATION: { http: 500, kt: '15: miscellaneous error' },
  FEED: { http: 500, kt: '15: miscellaneous error' },
  TIMEOUT: { http: 503, kt: '9: system error' },
  NETWORK: { http: 503, kt: '9: system error' },
};

export const HTTP_REASONS: Readonly<Record<number, string>> = {
  200: 'OK',
  201: 'Created',
  204: 'No Content',
  304: 'Not Modified',
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  412: 'Precondition Failed',
  413: 'Content Too Large',
  431: 'Request Header Fields Too Large',
  450: 'Logical Inconsistency',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  503: 'Service Unavailable',
  507: 'Insufficient Storage',
};
