/** One connection of the load: writes bytes, and says when each answer has come. */
import { connect, type Socket } from 'node:net';
import type { AnswerEnd } from './exchange.js';

const READ_BYTES = 1 << 18;

/**
 * Opens one. `onAnswers` gets the number of answers that a read completed; `onError` anything that ends the measurement.
 * Reads go into one buffer per connection: the load must not be what is slow.
 */
export async function openConnection(
  port: number,
  endOf: AnswerEnd,
  onAnswers: (count: number, bytes: Buffer) => void,
  onError: (error: Error) => void,
): Promise<Socket> {
  let rest = Buffer.alloc(0);
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  const onRead = (bytes: number): boolean => {
    const chunk = buffer.subarray(0, bytes);
    const received = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    let count = 0;
    try {
      while (at < received.length) {
        const end = endOf(received, at);
        if (end < 0) break;
        at = end;
        count++;
      }
    } catch (error) {
      onError(error as Error);
      return false;
    }
    rest = at === received.length ? Buffer.alloc(0) : Buffer.from(received.subarray(at));
    if (count > 0) onAnswers(count, received);
    return true;
  };
  const socket = connect({ host: '127.0.0.1', port, noDelay: true, onread: { buffer, callback: onRead } });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  socket.on('error', onError);
  socket.on('end', () => onError(new Error('the server closed a connection')));
  return socket;
}
