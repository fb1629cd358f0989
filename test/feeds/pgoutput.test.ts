/** The replication stream's bytes, as a real Postgres 18 sent them, and what cannot be understood. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { TokaidoError } from '../../src/base/errors.js';
import {
  decodeEnvelope,
  decodeMessage,
  encodeStatus,
  formatLsn,
  type Message,
  ofStreamed,
  parseLsn,
} from '../../src/feeds/postgres/pgoutput.js';

const T = { id: 0x4000, schema: 'public', table: 't' };
const COLUMNS = [
  { name: 'id', typeOid: 23, isKey: true },
  { name: 'v', typeOid: 25, isKey: false },
  { name: 'b', typeOid: 17, isKey: false },
];

/** Captured with pg_logical_slot_peek_binary_changes. */
const GOLDEN: readonly (readonly [string, string, Message])[] = [
  ['begin', '420000000001789958000303fb50ae1d54000002f2', { kind: 'begin', commitLsn: 0x1789958n, xid: 0x2f2 }],
  [
    'relation',
    '52000040007075626c69630074006400030169640000000017ffffffff00760000000019ffffffff00620000000011ffffffff',
    { kind: 'relation', relation: { ...T, columns: COLUMNS } },
  ],
  [
    'relation whose every column identifies a row',
    '52000040007075626c69630074006600030169640000000017ffffffff01760000000019ffffffff01620000000011ffffffff',
    { kind: 'relation', relation: { ...T, columns: COLUMNS.map((column) => ({ ...column, isKey: true })) } },
  ],
  [
    'relation with a name beyond ASCII',
    '52000040087075626c6963004f646420c3bc00640001016b0000000019ffffffff',
    {
      kind: 'relation',
      relation: {
        id: 0x4008,
        schema: 'public',
        table: 'Odd ü',
        columns: [{ name: 'k', typeOid: 25, isKey: true }],
      },
    },
  ],
  ['insert', '49000040084e00017400000002c3bc', { kind: 'insert', relationId: 0x4008, after: ['ü'] }],
  [
    'insert with NULL',
    '49000040004e00037400000001337400000001616e',
    { kind: 'insert', relationId: 0x4000, after: ['3', 'a', null] },
  ],
  [
    'update without its large value',
    '55000040004e0003740000000131756e',
    { kind: 'update', relationId: 0x4000, before: undefined, after: ['1', undefined, null] },
  ],
  [
    'update of the key',
    '55000040004b00037400000001316e6e4e0003740000000132756e',
    { kind: 'update', relationId: 0x4000, before: ['1', null, null], after: ['2', undefined, null] },
  ],
  [
    'update with the whole old row',
    '55000040004f00037400000001337400000001616e4e00037400000001336e6e',
    { kind: 'update', relationId: 0x4000, before: ['3', 'a', null], after: ['3', null, null] },
  ],
  [
    'delete by key',
    '44000040004b00037400000001326e6e',
    { kind: 'delete', relationId: 0x4000, before: ['2', null, null] },
  ],
  [
    'delete with the whole old row',
    '44000040004f00037400000001336e6e',
    { kind: 'delete', relationId: 0x4000, before: ['3', null, null] },
  ],
  ['truncate of two tables', '5400000002000000400000004008', { kind: 'truncate', relationIds: [0x4000, 0x4008] }],
  ['logical message', '4d01000000000178b920746f6b6169646f0000000000', { kind: 'other' }],
  ['commit', '430000000000017899580000000001789988000303fb50ae1d54', { kind: 'commit', endLsn: 0x1789988n }],
  ['beginning of a part of a transaction', '53000002f201', { kind: 'streamStart', xid: 0x2f2 }],
  ['end of a part', '45', { kind: 'streamStop' }],
  ['roll back of a subtransaction', '41000002f2000002f3', { kind: 'streamAbort', xid: 0x2f2, subXid: 0x2f3 }],
  [
    'commit of a streamed transaction',
    '63000002f200000000000177715000000000017772c800030419da2bbc4a',
    { kind: 'streamCommit', xid: 0x2f2, commitLsn: 0x177_7150n, endLsn: 0x177_72c8n },
  ],
];

/** What some messages carry behind what we read. */
const NEEDED: Readonly<Record<string, number>> = {
  begin: 9,
  commit: 18,
  'logical message': 1,
  'beginning of a part of a transaction': 5,
  'commit of a streamed transaction': 22,
};

describe('pgoutput', () => {
  for (const [name, hex, message] of GOLDEN) {
    it(`understands ${name}`, () => assert.deepEqual(decodeMessage(Buffer.from(hex, 'hex')), message));
  }

  it('invariant 9: a message that was cut anywhere is refused, never half understood', () => {
    for (const [name, hex] of GOLDEN) {
      const whole = Buffer.from(hex, 'hex');
      const needed = NEEDED[name] ?? whole.length;
      for (let length = 0; length < needed; length++) {
        assert.throws(() => decodeMessage(whole.subarray(0, length)), TokaidoError, `${name} cut at ${length}`);
      }
    }
  });

  it('takes streamed messages apart', () => {
    const insert = Buffer.from('49000002f3000040004e0002740000000132740000000162', 'hex');
    const { subXid, message } = ofStreamed(insert) as { subXid: number; message: Buffer };
    assert.equal(subXid, 0x2f3);
    assert.deepEqual(decodeMessage(message), { kind: 'insert', relationId: 0x4000, after: ['2', 'b'] });
    assert.equal(ofStreamed(Buffer.from('E')), undefined);
    assert.throws(() => ofStreamed(Buffer.from('I123')), TokaidoError);
  });

  it('invariant 9: any bytes are either understood or refused as corrupt', () => {
    const corrupted = fc.tuple(fc.constantFrom(...GOLDEN), fc.nat(), fc.nat(255)).map(([[, hex], at, byte]) => {
      const bytes = Buffer.from(hex, 'hex');
      bytes[at % bytes.length] = byte;
      return bytes;
    });
    fc.assert(
      fc.property(fc.oneof(corrupted, fc.uint8Array({ maxLength: 64 }).map(Buffer.from)), (bytes) => {
        for (const decode of [decodeMessage, decodeEnvelope]) {
          try {
            decode(bytes as Buffer);
          } catch (error) {
            assert.ok(error instanceof TokaidoError && error.code === 'CORRUPT', String(error));
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('WAL positions survive their text form', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (lsn) => assert.equal(parseLsn(formatLsn(lsn)), lsn)),
    );
    assert.equal(formatLsn(0x16_b374d848n), '16/B374D848');
    for (const text of ['', '0', '0/', '/0', '0/G', '123456789/0', '0/0 ']) {
      assert.throws(() => parseLsn(text), /is not a WAL position/);
    }
  });

  it('understands the envelope of data and of keepalives', () => {
    const data = Buffer.from('77000000000000001000000000000000200003000000000000ff01', 'hex');
    assert.deepEqual(decodeEnvelope(data), { kind: 'data', walEnd: 0x20n, payload: Buffer.from([0xff, 1]) });
    const keepalive = Buffer.from('6b0000000000000020000300000000000001', 'hex');
    assert.deepEqual(decodeEnvelope(keepalive), { kind: 'keepalive', walEnd: 0x20n, replyWanted: true });
  });

  it('writes the status that Postgres reads', () => {
    // One second after 2000-01-01, when Postgres begins to count.
    const bytes = encodeStatus(0x1789988n, 946_684_801_000, true);
    assert.equal(bytes.toString('hex'), `72${'0000000001789988'.repeat(3)}00000000000f424001`);
    assert.equal(encodeStatus(0n, 946_684_800_000, false).at(-1), 0);
  });
});
