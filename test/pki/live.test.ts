/** Files that change under a running node: what is whole counts, what is half-written does not. */
import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { type Logger, silentLogger } from '../../src/base/logger.js';
import { LiveFiles } from '../../src/pki/live.js';

describe('files that are read again', () => {
  let folder: string;
  let path: string;
  let warnings: number;
  let changes: number;
  let files: LiveFiles<string>;
  const log: Logger = { ...silentLogger, warn: () => warnings++ };

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tokaido-live-'));
    path = join(folder, 'file');
    writeFileSync(path, 'one.');
    warnings = 0;
    changes = 0;
    const { readFileSync } = await import('node:fs');
    const load = (): string => {
      const text = readFileSync(path, 'utf8');
      if (!text.endsWith('.')) throw new Error('not whole');
      return text;
    };
    files = new LiveFiles({ files: [path], load, what: 'a text', log });
    files.onChange(() => changes++);
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('count at the second look that finds them the same', () => {
    writeFileSync(path, 'two.');
    files.look();
    assert.equal(files.current, 'one.');
    files.look();
    assert.deepEqual([files.current, changes], ['two.', 1]);
  });

  it('that are being written are not read in the middle, even where the middle would load', () => {
    writeFileSync(path, 'a.');
    files.look();
    appendFileSync(path, ' b.');
    files.look();
    assert.equal(files.current, 'one.');
    files.look();
    assert.equal(files.current, 'a. b.');
  });

  it('that do not load leave what was there, with one warning for each state', () => {
    writeFileSync(path, 'half');
    for (let i = 0; i < 5; i++) files.look();
    assert.deepEqual([files.current, changes, warnings], ['one.', 0, 1]);
    appendFileSync(path, ' whole.');
    for (let i = 0; i < 2; i++) files.look();
    assert.deepEqual([files.current, changes], ['half whole.', 1]);
  });

  it('that are gone leave what was there, and count when they are back', () => {
    unlinkSync(path);
    for (let i = 0; i < 3; i++) files.look();
    assert.deepEqual([files.current, warnings], ['one.', 1]);
    writeFileSync(join(folder, 'new'), 'back.');
    renameSync(join(folder, 'new'), path);
    for (let i = 0; i < 2; i++) files.look();
    assert.equal(files.current, 'back.');
  });

  it('that were touched and hold the same change nothing', () => {
    writeFileSync(path, 'one.');
    for (let i = 0; i < 3; i++) files.look();
    assert.equal(changes, 0);
  });

  it('are read at once when told to', () => {
    writeFileSync(path, 'now.');
    files.reload();
    assert.deepEqual([files.current, changes], ['now.', 1]);
  });
});
