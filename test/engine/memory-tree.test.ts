/** The tree behind the memory engine, against a sorted map: any sequence of edits, any range, any older version. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { EMPTY_TREE, findInTree, scanTree, TreeEditor, type TreeVersion } from '../../src/engine/memory-tree.js';

type Model = Map<string, string>;

/** Few short keys collide often; long ones and large values take the other paths. */
const key = fc.oneof(
  fc.string({ unit: fc.constantFrom('a', 'b', '\0', '\xff'), maxLength: 3 }),
  fc.integer({ min: 0, max: 3000 }).map((n) => `key-${n}`),
);
const value = fc.oneof(
  fc.string({ unit: fc.constantFrom('x', 'y', '\0', '\xff'), maxLength: 40 }),
  fc.integer({ min: 1000, max: 3000 }).map((size) => 'z'.repeat(size)),
);
const step = fc.oneof(
  { weight: 80, arbitrary: fc.record({ kind: fc.constant('put' as const), key, value }) },
  { weight: 40, arbitrary: fc.record({ kind: fc.constant('remove' as const), key }) },
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('run' as const), from: fc.nat(2500), count: fc.nat(400) }) },
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('cut' as const), from: fc.nat(2500), count: fc.nat(400) }) },
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('commit' as const) }) },
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('abort' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const) }) },
);

function contents(version: TreeVersion, range: { start?: string; end?: string; reverse?: boolean } = {}): string[][] {
  return [...scanTree(version, range)].map((entry) => [entry.key, entry.value.toString('latin1')]);
}

function expected(model: Model, start = '', end?: string): string[][] {
  return [...model]
    .filter(([name]) => name >= start && (end === undefined || name < end))
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

describe('the tree of the memory engine', () => {
  it('equals a sorted map after any edits, and older versions stay as they were (invariant 1, 6)', () => {
    const run = (steps: readonly (typeof step extends fc.Arbitrary<infer S> ? S : never)[]): void => {
      let version = EMPTY_TREE;
      let committed: Model = new Map();
      let model: Model = new Map();
      let editor = new TreeEditor(version);
      const kept: { version: TreeVersion; model: Model }[] = [];
      for (const one of steps) {
        switch (one.kind) {
          case 'put':
            editor.put(one.key, Buffer.from(one.value, 'latin1'));
            model.set(one.key, one.value);
            break;
          case 'remove':
            assert.equal(editor.remove(one.key), model.delete(one.key));
            break;
          case 'run':
            for (let i = one.from; i < one.from + one.count; i++) {
              editor.put(`key-${i}`, Buffer.from(`${i}`));
              model.set(`key-${i}`, `${i}`);
            }
            break;
          case 'cut':
            for (let i = one.from; i < one.from + one.count; i++) {
              assert.equal(editor.remove(`key-${i}`), model.delete(`key-${i}`));
            }
            break;
          case 'clear':
            editor.clear();
            model.clear();
            break;
          case 'commit':
            version = editor.version();
            committed = new Map(model);
            kept.push({ version, model: committed });
            break;
          case 'abort':
            editor = new TreeEditor(version);
            model = new Map(committed);
            break;
        }
      }
      kept.push({ version: editor.version(), model });
      for (const { version: old, model: was } of kept) {
        const all = expected(was);
        assert.deepEqual(contents(old), all);
        assert.equal(old.records, was.size);
        assert.equal(
          old.bytes,
          all.reduce((sum, [name, text]) => sum + (name as string).length + (text as string).length, 0),
        );
        for (const [name, text] of all.slice(0, 50)) {
          assert.equal(findInTree(old, name as string)?.toString('latin1'), text);
        }
      }
    };
    fc.assert(fc.property(fc.array(step, { maxLength: 120, size: 'max' }), run), { numRuns: 150 });
  });

  it('scans any range both ways', () => {
    const property = (names: readonly string[], start: string, end: string): void => {
      const editor = new TreeEditor(EMPTY_TREE);
      const model: Model = new Map();
      for (const name of names) {
        editor.put(name, Buffer.from(name, 'latin1'));
        model.set(name, name);
      }
      const version = editor.version();
      const wanted = expected(model, start, end);
      assert.deepEqual(contents(version, { start, end }), wanted);
      assert.deepEqual(contents(version, { start, end, reverse: true }), wanted.toReversed());
      assert.deepEqual(contents(version, { start }), expected(model, start));
      assert.deepEqual(contents(version, { end, reverse: true }), expected(model, '', end).toReversed());
    };
    const names = fc.array(key, { maxLength: 600, size: 'max' });
    fc.assert(fc.property(names, key, key, property), { numRuns: 150 });
  });

  it('keeps the value as it was when the caller goes on using its buffer', () => {
    const editor = new TreeEditor(EMPTY_TREE);
    for (const size of [3, 5000]) {
      const mine = Buffer.alloc(size, 'a');
      editor.put(`k${size}`, mine);
      mine.fill('b');
      assert.equal(editor.get(`k${size}`)?.toString(), 'a'.repeat(size));
    }
  });
});
