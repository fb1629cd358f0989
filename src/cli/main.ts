#!/usr/bin/env node
/** The command `tokaido`. */
import { EXIT } from './output.js';
import { createProgram } from './program.js';

const program = createProgram((error) => {
  // Help and version are no errors; everything else commander refuses is wrong usage.
  process.exit(error.exitCode === 0 ? EXIT.ok : EXIT.usage);
});
await program.parseAsync();
