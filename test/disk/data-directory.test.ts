/** A data directory on a disk that takes nothing more: what is there already is enough to start and to read. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TokaidoError } from '../../src/base/errors.js';
import { DataDirectory } from '../../src/node/data/data-directory.js';
import { MachineDisk } from '../../src/node/data/machine-disk.js';
import { localRuntime } from '../support/local-runtime.js';

class FullDisk extends MachineDisk {
  override replace(path: string): void {
    throw new TokaidoError('STORAGE', `cannot write ${path}: ENOSPC`);
  }
}

describe('a data directory on a full disk', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-full-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const open = (disk: MachineDisk): DataDirectory =>
    new DataDirectory({ folder, disk, clusterId: 'c', runtime: localRuntime(), flushesCommits: true });

  it('opens behind a process that died, with a lock of its own', () => {
    const before = open(new MachineDisk());
    mkdirSync(before.nextStore());
    before.adoptNextStore();
    const directory = open(new FullDisk());
    assert.equal(directory.currentStore, join(folder, 'store-000001'));
    assert.match(readFileSync(join(folder, 'lock'), 'utf8'), new RegExp(`^${process.pid} \\d+$`));
  });

  it('says what it cannot write where it has to, behind one that was closed', () => {
    open(new MachineDisk()).closeCleanly();
    assert.throws(() => open(new FullDisk()), { code: 'STORAGE', message: /cannot write .*: ENOSPC/ });
  });

  it('that belongs to somebody else is named, with what to do', () => {
    rmSync(folder, { recursive: true });
    const disk = new MachineDisk();
    assert.throws(() => disk.replace(join(folder, 'node.json'), '{}'), {
      code: 'STORAGE',
      message: /cannot write .*node\.json: ENOENT/,
      hint: /free space on its disk/,
    });
    mkdirSync(folder);
  });
});
