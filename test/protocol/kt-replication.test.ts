/** Kyoto Tycoon's replication as bytes: what a real server sent, byte for byte, and any stream in any pieces. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ByteWriter } from '../../src/base/bytes.js';
import { NEVER_EXPIRES } from '../../src/base/types.js';
import {
  decodeFollowRequest,
  encodeFollowRequest,
  encodeMark,
  encodeTick,
  encodeUpdate,
  type KtChange,
  type KtEvent,
  KtStreamDecoder,
  type KtUpdate,
} from '../../src/protocol/kt-replication.js';
import { repository } from '../support/postgres.js';

interface Capture {
  readonly send: string;
  readonly recv: string;
  readonly printed: readonly string[];
}

const capture = JSON.parse(
  readFileSync(join(repository(), 'test', 'fixtures', 'kt-replication', 'replication.capture.json'), 'utf8'),
) as Capture;
const recorded = Buffer.from(capture.recv, 'base64');
const LIMIT = 1024;

function decode(stream: Buffer, piece = stream.length): KtEvent[] {
  const decoder = new KtStreamDecoder(LIMIT);
  const events: KtEvent[] = [];
  for (let at = 0; at < stream.length; at += piece) events.push(...decoder.push(stream.subarray(at, at + piece)));
  return events;
}

/** An update as the reference's own command prints it. */
function printed({ timestampNs, sid, database, change }: KtUpdate): string {
  const head = `${timestampNs}\t${sid}\t${database}`;
  if (change?.kind === 'clear') return `${head}\tclear`;
  if (change?.kind === 'remove') return `${head}\tremove\t${change.key.toString('base64')}`;
  assert.ok(change?.kind === 'set');
  const xt = Buffer.alloc(5, 0xff);
  if (change.xtMs !== NEVER_EXPIRES) xt.writeUIntBE(change.xtMs / 1000, 0, 5);
  return `${head}\tset\t${change.key.toString('base64')}\t${Buffer.concat([xt, change.value]).toString('base64')}`;
}

describe('a recorded replication stream of a real server', () => {
  const updates = decode(recorded).filter((event) => event.kind === 'update');

  it('says what the server itself prints of its log', () => {
    assert.deepEqual(updates.map(printed), capture.printed);
  });

  it('begins with the acceptance and ends with a tick that wants an answer', () => {
    const events = decode(recorded);
    assert.deepEqual(events[0], { kind: 'accepted' });
    assert.deepEqual(events.at(-1), { kind: 'tick', timestampNs: 1795457371194000000n, wantsAnswer: true });
  });

  it('is the same in whatever pieces it arrives', () => {
    for (const piece of [1, 2, 13, 100]) assert.deepEqual(decode(recorded, piece), decode(recorded));
  });

  it('is what we would have sent, byte for byte', () => {
    const writer = new ByteWriter().u8(0xb1);
    for (const update of updates) encodeUpdate(writer, update as KtUpdate & { change: KtChange });
    writer.bytes(encodeTick(1795457371194000000n));
    assert.deepEqual(writer.take(), recorded);
  });

  it('was asked for as we would ask', () => {
    const asked = Buffer.from(capture.send, 'base64');
    assert.deepEqual(encodeFollowRequest({ timestampNs: 0n, sid: 99, onlySid: false }), asked);
    assert.deepEqual(decodeFollowRequest(asked), {
      request: { timestampNs: 0n, sid: 99, onlySid: false },
      bytes: asked.length,
    });
  });
});

describe('a replication stream', () => {
  const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
  const plain = { noNullPrototype: true } as const;
  const change: fc.Arbitrary<KtChange> = fc.oneof(
    fc.record(
      {
        kind: fc.constant('set' as const),
        key: bytes,
        value: bytes,
        xtMs: fc.oneof(
          fc.constant(NEVER_EXPIRES),
          fc.integer({ min: 1, max: 2 ** 33 }).map((seconds) => seconds * 1000),
        ),
      },
      plain,
    ),
    fc.record({ kind: fc.constant('remove' as const), key: bytes }, plain),
    fc.constant({ kind: 'clear' as const }),
  );
  const update = fc.record(
    { timestampNs: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), sid: fc.nat(0xffff), database: fc.nat(0xffff), change },
    plain,
  );

  it('comes back as it was said, in any pieces', () => {
    fc.assert(
      fc.property(fc.array(update, { maxLength: 20 }), fc.integer({ min: 1, max: 400 }), (updates, piece) => {
        const writer = new ByteWriter().u8(0xb1);
        for (const each of updates) encodeUpdate(writer, each);
        const events = decode(writer.take(), piece).slice(1);
        assert.deepEqual(
          events,
          updates.map((each) => ({ kind: 'update', ...each })),
        );
      }),
    );
  });

  it('ends with an error, never in a crash, whatever bytes arrive', () => {
    const start = Buffer.of(0xb1);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => {
        try {
          decode(Buffer.concat([start, noise]), 7);
        } catch (error) {
          assert.ok(['REPLICATION', 'TOO_LARGE'].includes((error as { code: string }).code), String(error));
        }
      }),
    );
  });

  it('refuses a message by its declared size, before its bytes come', () => {
    const head = (size: number): Buffer => new ByteWriter().u8(0xb1).u8(0xb1).u64(1n).u32(size).take();
    assert.throws(() => decode(head(LIMIT + 1)), { code: 'TOO_LARGE' });
    assert.deepEqual(decode(head(LIMIT)), [{ kind: 'accepted' }]);
  });

  it('says how far it is without wanting an answer', () => {
    const [, mark] = decode(Buffer.concat([Buffer.of(0xb1), encodeMark(7n)]));
    assert.deepEqual(mark, { kind: 'tick', timestampNs: 7n, wantsAnswer: false });
  });

  it('rounds an expiration time up: nothing expires before its time', () => {
    const writer = new ByteWriter().u8(0xb1);
    const set = { kind: 'set', key: Buffer.from('k'), value: Buffer.alloc(0), xtMs: 1_700_000_000_001 } as const;
    encodeUpdate(writer, { timestampNs: 1n, sid: 1, database: 0, change: set });
    const [, event] = decode(writer.take());
    assert.ok(event?.kind === 'update' && event.change?.kind === 'set');
    assert.equal(event.change.xtMs, 1_700_000_001_000);
  });

  it('leaves kinds that nobody applies without a change', () => {
    const body = Buffer.of(0, 7, 0, 0, 0xa3);
    const message = new ByteWriter().u8(0xb1).u8(0xb1).u64(5n).u32(body.length).bytes(body).take();
    assert.deepEqual(decode(message)[1], { kind: 'update', timestampNs: 5n, sid: 7, database: 0, change: undefined });
  });
});
