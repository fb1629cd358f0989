/** How commands end: results on standard output, one error form, documented exit codes. */
import { TokaidoError } from '../base/errors.js';

/** Exit codes; docs/reference/cli.md documents them. */
export const EXIT = { ok: 0, failed: 1, usage: 2, noRecord: 3 } as const;

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value));
}

/** Prints an error for people, or as one JSON object, and returns the exit code. */
export function printError(error: unknown, json: boolean): number {
  const known = error instanceof TokaidoError ? error : undefined;
  const message = error instanceof Error ? error.message : String(error);
  if (json) {
    process.stderr.write(
      `${JSON.stringify({ error: { code: known?.code ?? 'INTERNAL', message, hint: known?.hint } })}\n`,
    );
  } else {
    process.stderr.write(`error: ${message}\n`);
    if (known?.hint !== undefined) process.stderr.write(`hint: ${known.hint}\n`);
    if (known === undefined && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n`);
  }
  if (known?.code === 'NO_RECORD') return EXIT.noRecord;
  return known?.code === 'CONFIG' ? EXIT.usage : EXIT.failed;
}

/** Wraps a command's action: whatever it throws is printed in the one form and sets the exit code. */
export function action<A extends unknown[]>(run: (...args: A) => Promise<void>): (...args: A) => Promise<void> {
  return async (...args) => {
    try {
      await run(...args);
    } catch (error) {
      const json = args.some((argument) => (argument as { json?: unknown } | null)?.json === true);
      process.exitCode = printError(error, json);
    }
  };
}
