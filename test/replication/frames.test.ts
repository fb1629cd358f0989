/** The bytes of frames: pinned, so that a change of format is a decision (docs/protocol.md). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { epoch, sequence, sid, versionNs } from '../../src/base/types.js';
import { encodeFrame, FRAME_HEADER_BYTES, type Frame, FrameDecoder } from '../../src/replication/frames/frames.js';
import { PACKINGS, Packer, unpacked } from '../../src/replication/frames/packing.js';
import { ALL_KEYS } from '../../src/store/audit.js';
import { decodeHash } from '../../src/store/set-hash.js';

const position = [{ sid: sid(1), epoch: epoch(2), sequence: sequence(300), versionNs: versionNs(7n) }];

const GOLDEN: readonly (readonly [Frame, string])[] = [
  [
    {
      type: 'proof',
      position,
      databases: [
        {
          name: 'a',
          records: 3,
          proven: {
            hash: decodeHash(Buffer.from('00112233445566778899aabbccddeeff', 'hex')),
            horizon: { xtMs: 5, key: Buffer.from('k') },
          },
        },
        {
          name: 'b',
          records: 0,
          proven: { hash: decodeHash(Buffer.alloc(16)), horizon: { xtMs: 6, key: undefined } },
        },
        { name: 'cache', records: 9, proven: undefined },
      ],
    },
    '010102ac02000000000000000703' +
      '0161030100112233445566778899aabbccddeeff00000000000501016b' +
      '0162000100000000000000000000000000000000' +
      '00000000000600' +
      '0563616368650900',
  ],
  [
    {
      type: 'hello',
      version: 1,
      clusterId: '03'.repeat(16),
      self: { instanceId: '01'.repeat(16), name: 'e' },
      seeded: true,
      isLook: false,
      takesHorizon: true,
      resumes: false,
      unpacks: ['deflate', 'zstd'],
      position,
      scopeId: '04'.repeat(32),
    },
    `01${'03'.repeat(16)}${'01'.repeat(16)}016539010102ac020000000000000007${'04'.repeat(32)}`,
  ],
  [
    {
      type: 'hello',
      version: 1,
      clusterId: '03'.repeat(16),
      self: { instanceId: '01'.repeat(16), name: 'e' },
      seeded: false,
      isLook: false,
      takesHorizon: true,
      resumes: true,
      unpacks: [],
      position: [],
      scopeId: '04'.repeat(32),
      scopeOpening: Buffer.from('open'),
    },
    `01${'03'.repeat(16)}${'01'.repeat(16)}0165c800${'04'.repeat(32)}046f70656e`,
  ],
  [
    {
      type: 'hello',
      version: 1,
      clusterId: '03'.repeat(16),
      self: { instanceId: '01'.repeat(16), name: 'e' },
      seeded: true,
      isLook: false,
      takesHorizon: true,
      resumes: false,
      unpacks: [],
      position,
      scopeId: '04'.repeat(32),
      takesForgotten: true,
      origin: { sid: sid(2), timeMs: 3, replaces: [] },
    },
    `01${'03'.repeat(16)}${'01'.repeat(16)}01658d010102ac020000000000000007${'04'.repeat(32)}0200000000000300`,
  ],
  [
    {
      type: 'forgotten',
      forgotten: [
        { sid: sid(1), versionNs: versionNs(5n) },
        { sid: sid(300), versionNs: versionNs(6n) },
      ],
    },
    '02010000000000000005ac020000000000000006',
  ],
  [{ type: 'audit', database: 'a', horizonMs: 5 }, '0161000000000005'],
  [{ type: 'audited', position, cutoffMs: 6 }, '010102ac020000000000000007000000000006'],
  [
    { type: 'descend', rows: 32, ranges: [ALL_KEYS, { start: Buffer.from('a'), end: Buffer.from('b') }] },
    '200200000161010162',
  ],
  [
    {
      type: 'ranges',
      isLast: true,
      parts: [{ start: Buffer.from('a'), end: undefined, count: 3, hash: decodeHash(Buffer.alloc(16, 1)) }],
    },
    `010101610003${'01'.repeat(16)}`,
  ],
  [{ type: 'auditEnd', reason: 'why' }, '03776879'],
  [
    {
      type: 'report',
      nodes: [
        {
          instanceId: '01'.repeat(16),
          upstreamId: '02'.repeat(16),
          name: 'e',
          role: 'edge',
          position,
          lagMs: 5,
          equal: 'equal',
          ageMs: 7,
        },
      ],
    },
    `01${'01'.repeat(16)}${'02'.repeat(16)}01650465646765010102ac020000000000000007010706`,
  ],
  [{ type: 'relink' }, ''],
];

const GOES_ON: Extract<Frame, { type: 'hello' }> = {
  type: 'hello',
  version: 1,
  clusterId: '03'.repeat(16),
  self: { instanceId: '01'.repeat(16), name: 'e' },
  seeded: false,
  isLook: false,
  takesHorizon: true,
  resumes: true,
  unpacks: [],
  position: [],
  scopeId: '04'.repeat(32),
  unfinished: { id: '05'.repeat(16), rows: 300 },
};
const GOES_ON_HEX = `01${'03'.repeat(16)}${'01'.repeat(16)}01654800${'04'.repeat(32)}${'05'.repeat(16)}ac02`;

const BEGIN: Extract<Frame, { type: 'snapshotBegin' }> = {
  type: 'snapshotBegin',
  position,
  lastVersionNs: versionNs(9n),
  feeds: [{ feed: 'f', position: 8n }],
  databases: [{ name: 'a', records: 3 }],
  clears: [{ database: 0, prefix: Buffer.from('p'), versionNs: versionNs(6n), sid: sid(1) }],
};
const BEGIN_HEX =
  '010102ac0200000000000000070000000000000009' + '01016600000000000000080101610301000170000000000000000601';

describe('packed rows', () => {
  it('come out as they went in, by every way that this process has, and nothing else does', () => {
    const rows = Buffer.from('some rows '.repeat(1000));
    for (const packing of PACKINGS) {
      const packed = new Packer(packing).pack(rows) as Buffer;
      assert.ok(packed.length < 500);
      assert.deepEqual(unpacked(packing, packed, rows.length), rows);
      for (const length of [0, 1, rows.length - 1, rows.length + 1])
        assert.throws(() => unpacked(packing, packed, length), { code: 'CORRUPT' });
      assert.throws(() => unpacked(packing, packed.subarray(0, -1), rows.length), { code: 'CORRUPT' });
      assert.throws(() => unpacked(packing, rows, rows.length), { code: 'CORRUPT' });
    }
  });

  it('are not tried again for a while where it does not pay', () => {
    const packer = new Packer('deflate');
    const noise = randomBytes(5000);
    assert.equal(packer.pack(noise), undefined);
    const text = Buffer.alloc(5000, 'x');
    assert.equal(packer.pack(text), undefined);
    for (let i = 0; i < 14; i++) packer.pack(text);
    assert.ok((packer.pack(text) as Buffer).length < 100);
  });
});

describe('replication frames', () => {
  it('snapshotBegin has the bytes it always had, a horizon behind them for those who take it, and so have packed rows', () => {
    for (const [frame, hex] of [
      [GOES_ON, GOES_ON_HEX],
      [BEGIN, BEGIN_HEX],
      [{ ...BEGIN, horizonMs: 5 }, `${BEGIN_HEX}000000000005`],
      [
        { ...BEGIN, horizonMs: 5, from: { id: '05'.repeat(16), rows: 300 } },
        `${BEGIN_HEX}000000000005${'05'.repeat(16)}ac02`,
      ],
      [
        { type: 'snapshotPacked', packing: 'deflate', database: 1, bytes: 300, packed: Buffer.from('abc') },
        '0101ac02616263',
      ],
    ] as const) {
      const encoded = encodeFrame(frame);
      assert.equal(encoded.subarray(FRAME_HEADER_BYTES).toString('hex'), hex);
      assert.deepEqual([...new FrameDecoder().push(encoded)], [frame]);
    }
  });

  for (const [frame, hex] of GOLDEN) {
    it(`${frame.type} has the bytes it always had`, () => {
      const encoded = encodeFrame(frame);
      assert.equal(encoded.subarray(FRAME_HEADER_BYTES).toString('hex'), hex);
      assert.deepEqual([...new FrameDecoder().push(encoded)], [frame]);
    });

    it(`${frame.type} is refused when it is cut short`, () => {
      const payload = encodeFrame(frame).subarray(FRAME_HEADER_BYTES);
      for (let length = 0; length < payload.length; length++) {
        const cut = encodeFrame({ type: 'batch', payload: payload.subarray(0, length) });
        cut[4] = encodeFrame(frame)[4] as number;
        assert.throws(() => [...new FrameDecoder().push(cut)], /CORRUPT|need|more bytes/);
      }
    });
  }
});
