/** Values that a function of the operator makes: modules are loaded once, before anything begins. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { messageOf, TokaidoError } from '../../base/errors.js';
import type { RowFunction, TableMapping } from './mapping.js';

/**
 * The mappings with their functions, and with a mark of the module's text, so that a table is copied again when the
 * function has changed. Errors: `CONFIG` when a module or its function is not there.
 */
export async function loadFunctions(mappings: readonly TableMapping[]): Promise<TableMapping[]> {
  return await Promise.all(
    mappings.map(async (mapping) => {
      const { value } = mapping;
      return 'module' in value
        ? { ...mapping, value: await load(mapping.table, value.module, value.function) }
        : mapping;
    }),
  );
}

async function load(table: string, path: string, name: string): Promise<TableMapping['value']> {
  let exports: Record<string, unknown>;
  let mark: string;
  try {
    mark = createHash('sha256').update(readFileSync(path)).digest('hex');
    exports = (await import(pathToFileURL(path).href)) as Record<string, unknown>;
  } catch (error) {
    throw new TokaidoError('CONFIG', `cannot load the module ${path} of table ${table}: ${messageOf(error)}`, {
      hint: 'it must be an ECMAScript module (.mjs, or .js beside a package.json of type module)',
      cause: error,
    });
  }
  const run = exports[name];
  if (typeof run !== 'function') {
    throw new TokaidoError('CONFIG', `the module ${path} exports no function ${name}`, {
      hint: `it exports ${Object.keys(exports).join(', ') || 'nothing'}`,
    });
  }
  return { module: path, function: name, mark, run: run as RowFunction };
}
