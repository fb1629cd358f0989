/** Percent-decoding to bytes, for paths, forms and columns. */

/** Value of a hexadecimal digit by its code, or -1. */
const HEX = Int8Array.from({ length: 256 }, (_, code) =>
  '0123456789abcdef'.indexOf(String.fromCharCode(code).toLowerCase()),
);
const PERCENT = 0x25;
const PLUS = 0x2b;
const SPACE = 0x20;

/**
 * Decodes `%XX`, and `+` as a space (which Kyoto Tycoon does in paths too). `text` holds one byte per character. A
 * stray `%` stands for itself, as in browsers. One pass, whatever the input.
 */
export function decodePercent(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1');
  return hasEscapes(text) ? decodeEscapes(bytes, PERCENT, true) : bytes;
}

/** The same as text, one byte per character: names are read so, and seldom have anything to decode. */
export function decodePercentText(text: string): string {
  return hasEscapes(text) ? decodePercent(text).toString('latin1') : text;
}

function hasEscapes(text: string): boolean {
  return text.includes('%') || text.includes('+');
}

/** Decodes a sign with two hexadecimal digits in place; returns the shorter view. */
export function decodeEscapes(bytes: Buffer, sign: number, plusIsSpace: boolean): Buffer {
  let to = 0;
  for (let from = 0; from < bytes.length; from++) {
    const byte = bytes[from] as number;
    if (byte === sign && from + 2 < bytes.length) {
      const high = HEX[bytes[from + 1] as number] as number;
      const low = HEX[bytes[from + 2] as number] as number;
      if (high >= 0 && low >= 0) {
        bytes[to++] = high * 16 + low;
        from += 2;
        continue;
      }
    }
    bytes[to++] = plusIsSpace && byte === PLUS ? SPACE : byte;
  }
  return bytes.subarray(0, to);
}
