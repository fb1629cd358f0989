/** The public API of the package: the client and its errors. */
export { type ErrorCode, TokaidoError } from '../base/errors.js';
export {
  type AtLeastOptions,
  type ClientOptions,
  type ClientRecord,
  type ClientTlsOptions,
  type Key,
  TokaidoClient,
} from './client.js';
