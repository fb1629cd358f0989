/**
 * Rows of a snapshot in fewer bytes, as both ends can: zstd where `node:zlib` has it (Node 22.15), raw DEFLATE everywhere.
 * A follower says in its HELLO what it unpacks; the upstream takes the best of that.
 *
 * In the caller's own turn, on purpose: slices are small (`PACKED_SLICE_BYTES`, less than a millisecond of work), so other
 * work waits no longer than it does for a slice as it is, and a simulation stays the same from one run to the next.
 */
import zlib from 'node:zlib';
import { TokaidoError } from '../../base/errors.js';

export type Packing = 'deflate' | 'zstd';

/** About how many bytes of rows are packed at once. */
export const PACKED_SLICE_BYTES = 64 * 1024;
/** What is not at least a tenth smaller is sent as it is. */
const WORTH_IT = 0.9;
/** So many slices go as they are after one that packing did little for: values that are encrypted or packed already. */
const SLICES_AS_THEY_ARE = 15;
/** Of both: speed is worth more here than the last byte. */
const LEVEL = 1;

interface Zstd {
  zstdCompressSync(data: Buffer, options: { readonly params: Record<number, number> }): Buffer;
  zstdDecompressSync(data: Buffer, options: { readonly maxOutputLength: number }): Buffer;
  readonly constants: { readonly ZSTD_c_compressionLevel: number };
}

/** `undefined` where this Node.js is too old for it. */
const zstd = 'zstdCompressSync' in zlib ? (zlib as unknown as Zstd) : undefined;

/** What this process packs and unpacks, the best first. */
export const PACKINGS: readonly Packing[] = zstd === undefined ? ['deflate'] : ['zstd', 'deflate'];

/** Packs slices for one receiver, as far as it is worth the work. */
export class Packer {
  readonly packing: Packing;
  #asTheyAre = 0;

  constructor(packing: Packing) {
    this.packing = packing;
  }

  /** `undefined` when the rows are to be sent as they are. */
  pack(rows: Buffer): Buffer | undefined {
    if (this.#asTheyAre > 0) {
      this.#asTheyAre--;
      return undefined;
    }
    const packed = packedBy(this.packing, rows);
    if (packed.length <= rows.length * WORTH_IT) return packed;
    this.#asTheyAre = SLICES_AS_THEY_ARE;
    return undefined;
  }
}

function packedBy(packing: Packing, rows: Buffer): Buffer {
  if (packing === 'deflate') return zlib.deflateRawSync(rows, { level: LEVEL });
  return here().zstdCompressSync(rows, { params: { [here().constants.ZSTD_c_compressionLevel]: LEVEL } });
}

/** Errors: `CORRUPT` when this is not `length` bytes packed so. */
export function unpacked(packing: Packing, packed: Buffer, length: number): Buffer {
  try {
    const limit = { maxOutputLength: Math.max(1, length) };
    const rows = packing === 'deflate' ? zlib.inflateRawSync(packed, limit) : here().zstdDecompressSync(packed, limit);
    if (rows.length === length) return rows;
  } catch (error) {
    throw new TokaidoError('CORRUPT', `rows of a snapshot cannot be unpacked: ${String(error)}`);
  }
  throw new TokaidoError('CORRUPT', `rows of a snapshot are not the ${length} bytes they were announced to be`);
}

function here(): Zstd {
  if (zstd === undefined) throw new TokaidoError('CORRUPT', 'this Node.js has no zstd');
  return zstd;
}
