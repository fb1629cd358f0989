/** Damage that LMDB does not survive is found before it opens the file, and so is a data directory that lost a part. */
import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { LmdbEngine } from '../../src/engine/lmdb.js';
import { DataDirectory } from '../../src/node/data/data-directory.js';
import { MachineDisk } from '../../src/node/data/machine-disk.js';
import { localRuntime } from '../support/local-runtime.js';

const PAGE_BYTES = 4096;

describe('a damaged data file', () => {
  let folder: string;
  let file: string;
  const open = (): LmdbEngine => new LmdbEngine({ folder, bootId: 'boot', mapSizeBytes: 2 ** 28, maxMaps: 8 });
  const refused = (what: RegExp): void => assert.throws(open, { code: 'CORRUPT', message: what, hint: /recover\.md/ });

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-damaged-'));
    file = join(folder, 'data.mdb');
    const engine = open();
    const map = engine.openMap('records');
    for (let commit = 0; commit < 20; commit++) {
      await engine.write((writer) => {
        for (let key = 0; key < 200; key++) writer.put(map, Buffer.from(`${commit}/${key}`), Buffer.alloc(500));
      });
    }
    await engine.flush();
    await engine.close();
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  function overwrite(page: number): void {
    const bytes = readFileSync(file);
    bytes.fill(0x5a, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    writeFileSync(file, bytes);
  }

  it('opens while it is whole', async () => {
    await open().close();
  });

  it('is named when its first pages are not those of a data file', () => {
    overwrite(1);
    refused(/data\.mdb is damaged: its second page is not that of a data file/);
    overwrite(0);
    refused(/its first page is not that of a data file/);
  });

  it('is named when it is shorter than its newest commit', () => {
    truncateSync(file, statSync(file).size / 2);
    refused(/it has \d+ bytes, and its newest commit needs \d+/);
    truncateSync(file, 20_000);
    refused(/it has 20000 bytes/);
    truncateSync(file, 1);
    refused(/its first page is not that of a data file/);
  });

  it('is named when it is empty or missing, and had data: a root would begin with nothing, and so would all nodes', () => {
    truncateSync(file, 0);
    refused(/it is missing or empty, and had data/);
    rmSync(file);
    refused(/it is missing or empty, and had data/);
  });
});

describe('a data directory that lost a part', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-damaged-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  const open = (): DataDirectory =>
    new DataDirectory({
      folder,
      disk: new MachineDisk(),
      clusterId: 'c',
      runtime: localRuntime(),
      flushesCommits: true,
    });

  it('is left as it is: without node.json, and without the store that node.json names', () => {
    const directory = open();
    mkdirSync(directory.nextStore());
    directory.adoptNextStore();
    directory.closeCleanly();
    const file = readFileSync(join(folder, 'node.json'));
    rmSync(join(folder, 'node.json'));
    assert.throws(open, { code: 'CORRUPT', message: /has data, and no node\.json that says whose/ });
    assert.deepEqual(readdirSync(folder), ['store-000001']);
    writeFileSync(join(folder, 'node.json'), file);
    rmSync(join(folder, 'store-000001'), { recursive: true });
    assert.throws(open, { code: 'CORRUPT', message: /lacks store-000001, which has its data/, hint: /recover\.md/ });
  });
});
