/** Replacing files: what is in them, who may read them, whose they are. */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { replaceFile } from '../../src/disk/files.js';

const isRoot = process.getuid?.() === 0;

describe('a file that is replaced whole', () => {
  let folder = '';
  let path = '';

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-files-'));
    path = join(folder, 'node.yaml');
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const mode = (): number => statSync(path).mode & 0o777;

  it('is for its owner only when it is new, whatever a file of the temporary name allowed', () => {
    writeFileSync(`${path}.new`, 'left by a process that was killed, and longer than what follows', { mode: 0o644 });
    replaceFile(path, 'a');
    assert.equal(readFileSync(path, 'utf8'), 'a');
    assert.equal(mode(), 0o600);
    assert.deepEqual(readdirSync(folder), ['node.yaml']);
  });

  it('keeps its permissions, unless others are asked for', () => {
    writeFileSync(path, 'before');
    chmodSync(path, 0o640);
    replaceFile(path, 'after');
    assert.equal(mode(), 0o640);
    replaceFile(path, 'after', { mode: 0o644 });
    assert.equal(mode(), 0o644);
  });

  it('keeps its owner when root replaces it: the service of that owner must go on reading it', {
    skip: isRoot ? false : 'only root gives files away',
  }, () => {
    writeFileSync(path, 'before', { mode: 0o600 });
    chownSync(path, 12_345, 23_456);
    replaceFile(path, 'after');
    const { uid, gid } = statSync(path);
    assert.deepEqual({ uid, gid, mode: mode() }, { uid: 12_345, gid: 23_456, mode: 0o600 });
  });

  it('stays as it was when somebody else is writing it', () => {
    writeFileSync(path, 'before');
    writeFileSync(join(folder, 'other'), 'being written');
    assert.throws(() => replaceFile(path, 'after', { temporary: join(folder, 'other'), exclusive: true }), /EEXIST/);
    assert.equal(readFileSync(path, 'utf8'), 'before');
  });
});
