/** What the log of a store holds, transaction by transaction. */
import assert from 'node:assert/strict';
import { decodeTransactions, type Transaction } from '../../src/log/transaction.js';
import type { LocalStore } from '../../src/store/store.js';

export function* loggedTransactions(store: LocalStore): Generator<Transaction> {
  for (let at = store.log.first; at < store.log.next; ) {
    const batch = store.log.batchAt(at);
    assert.ok(batch !== undefined);
    for (const { header, changes } of decodeTransactions(Buffer.from(batch.payload))) yield { ...header, changes };
    at = (batch.first + batch.count) as typeof at;
  }
}
