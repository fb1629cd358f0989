/**
 * The test suite that the package `memcached` brings along, against a real node. It is written for mocha and should;
 * the little that it uses of them stands here. Its file about connections is left out: it is about servers that are not
 * there, reached by `ping`.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { freePort } from '../support/postgres.js';
import { ServedNode } from '../support/serve.js';

const require = createRequire(import.meta.url);
const suite = join(dirname(require.resolve('memcached')), 'test');
const LEFT_OUT = 'memcached-connections.test.js';

/** `value.should`: what the suite says of values. */
function should(value: unknown): object {
  const equals = (expected: unknown): void => assert.deepEqual(value, expected);
  const be = {
    eql: equals,
    equal: equals,
    get true() {
      return assert.equal(value, true);
    },
    get false() {
      return assert.equal(value, false);
    },
  };
  const key = (name: string): void => assert.equal(Object.hasOwn(value as object, name), false);
  return { eql: equals, be, not: { have: { key } } };
}

const folder = mkdtempSync(join(tmpdir(), 'tokaido-memcached-'));
const ports = [await freePort(), await freePort(), await freePort()];
const servers = ports.map((port) => `127.0.0.1:${port}`);
let node: ServedNode;

describe("the memcached client's own suite", () => {
  before(async () => {
    const listeners = ports.flatMap((port) => ['--memcached', String(port), '--memcached-options', 'opts=f']);
    const others = ['--port', String(await freePort()), '--admin', String(await freePort())];
    node = await ServedNode.start(['--data', 'data', '--db', ':', ...others, ...listeners], folder);
    Object.defineProperty(Object.prototype, 'should', {
      configurable: true,
      get(this: object) {
        return should(this.valueOf());
      },
      // A field of that name stays possible elsewhere.
      set(this: object, value: unknown) {
        Object.defineProperty(this, 'should', { value, writable: true, configurable: true, enumerable: true });
      },
    });
  });
  after(async () => {
    Reflect.deleteProperty(Object.prototype, 'should');
    await node.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const common = require(join(suite, 'common.js')) as { servers: object };
  common.servers = { single: servers[0], multi: servers };
  const globals = globalThis as unknown as Record<string, unknown>;
  globals.describe = describe;
  globals.it = (name: string, test: (done: () => void) => void) => it(name, (_, done) => test(() => done()));
  for (const file of readdirSync(suite)) {
    if (file.endsWith('.test.js') && file !== LEFT_OUT) require(join(suite, file));
  }
});
