/** PEM text: the blocks in it, and back. A block that begins and does not end means a file that is still being written. */
import { X509Certificate } from 'node:crypto';
import { messageOf, TokaidoError } from '../base/errors.js';

export interface PemBlock {
  /** What it says it is: `CERTIFICATE`, `X509 CRL`, `PRIVATE KEY`. */
  readonly label: string;
  readonly der: Buffer;
  /** The block itself, with its lines. */
  readonly text: string;
}

const BLOCK = /-----BEGIN ([A-Z0-9 ]+)-----\r?\n([A-Za-z0-9+/=\s:,.-]*?)-----END \1-----/g;

/** Errors: `IDENTITY` for a block that is not whole; `path` is for that message. */
export function pemBlocks(text: string, path: string): PemBlock[] {
  const blocks = [...text.matchAll(BLOCK)].map(([block, label, body]) => {
    const der = Buffer.from((body as string).replace(/\s/g, ''), 'base64');
    return { label: label as string, der, text: `${block}\n` };
  });
  const begun = text.match(/-----BEGIN /g)?.length ?? 0;
  if (begun !== blocks.length) throw new TokaidoError('IDENTITY', `${path} is not whole: a PEM block has no end`);
  return blocks;
}

export function toPem(label: string, der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

/** Every certificate of a file, in its order. Errors: `IDENTITY` when there is none, or one does not parse. */
export function certificatesOf(text: string, path: string): X509Certificate[] {
  const blocks = pemBlocks(text, path).filter(({ label }) => /^(TRUSTED )?CERTIFICATE$|^X509 CERTIFICATE$/.test(label));
  if (blocks.length === 0) throw new TokaidoError('IDENTITY', `${path} is not a certificate in PEM form`);
  return blocks.map(({ text: block }) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw new TokaidoError('IDENTITY', `${path} holds a certificate that does not parse: ${messageOf(error)}`, {
        cause: error,
      });
    }
  });
}
