/** The part of the schema about listeners: where they are bound, what they prove, whom they let in. */
import { z } from 'zod';
import { ktScopes, policy } from './policy-schema.js';
import { duration } from './quantities.js';

/** Where a listener is bound. */
export function listener(port: number, what: string) {
  return z.strictObject({
    host: z.string().default('127.0.0.1').describe(`Address to bind ${what} to. Loopback unless told otherwise.`),
    port: z.number().int().min(0).max(65_535).default(port).describe('TCP port; 0 lets the system choose.'),
  });
}

const clientTls = z.strictObject({
  certificate: z.string().describe('Certificate (PEM) that the listener proves itself with.'),
  key: z.string().describe('Its private key (PEM), readable by its owner only.'),
  clientCa: z
    .string()
    .optional()
    .describe('CA certificates (PEM): clients must present a certificate of one of them. Without it they need none.'),
  crl: z
    .string()
    .optional()
    .describe("Revocation lists (PEM, any number in one file) that hold here besides the node's own (identity.crl)."),
  names: z
    .array(z.string())
    .default([])
    .describe("Names (common name, DNS or URI), one of which a client's certificate must carry; any when empty."),
});

const tls = z
  .union([z.literal(false), clientTls])
  .default(false)
  .describe('TLS 1.2 or newer on this listener.');

export const clientListener = listener(1978, 'the client listener').extend({
  tls,
  policy: policy.optional(),
  tokens: z
    .string()
    .optional()
    .describe('File of the tokens that the policy names (`tokaido client-token`), readable by its owner only.'),
});

export const memcachedListener = listener(11_211, 'the memcached listener').extend({
  tls,
  policy: policy.optional(),
  database: z.string().optional().describe('Database it works on, by name or number; the first one when absent.'),
  flags: z
    .boolean()
    .default(false)
    .describe("Keep clients' flags, in the last four bytes of the stored value (opts=f of Kyoto Tycoon's plug-in)."),
  queue: z
    .boolean()
    .default(false)
    .describe('Let set, get and delete work on message queues: a get takes the oldest message and waits (opts=q).'),
  queueTimeoutMs: duration('10s').describe('How long a get waits for a message (qtout).'),
  readOnly: z.boolean().default(false).describe('Refuse everything that changes something (opts=r).'),
});
export const ktListener = z.strictObject({
  host: z.string().default('127.0.0.1').describe('Address to bind the listener to. Loopback unless told otherwise.'),
  port: z.number().int().min(0).max(65_535).describe('TCP port; 0 lets the system choose.'),
  allow: z
    .array(z.union([z.ipv4(), z.ipv6()]))
    .max(256)
    .default([])
    .describe(
      'Addresses that may follow, each in full. Needed unless tls.clientCa asks for certificates: whoever follows reads everything, in plaintext without tls.',
    ),
  scopes: ktScopes.optional(),
  tls,
});

/** A listener for clients. */
export type ClientListenerConfig = z.output<typeof clientListener>;
/** A listener for memcached's clients. */
export type MemcachedListenerConfig = z.output<typeof memcachedListener>;
/** What a listener proves, and asks of clients. */
export type ListenerTls = z.output<typeof clientTls>;
