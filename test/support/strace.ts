/** Reads what strace recorded, to prove in which order a process wrote, synced and spoke. */

interface Call {
  readonly name: string;
  readonly text: string;
  /** Line on which it was made. */
  readonly begin: number;
  /** Line on which it returned. */
  end: number;
}

/** Calls in the order in which they were made; those of several threads are put together from their two halves. */
function parse(trace: string): Call[] {
  const calls: Call[] = [];
  const unfinished = new Map<string, Call>();
  for (const [at, line] of trace.split('\n').entries()) {
    const [, thread = '', rest = ''] = /^(\d+)\s+(.*)$/.exec(line) ?? [];
    const resumed = /^<\.\.\. (\w+) resumed>/.test(rest) ? unfinished.get(thread) : undefined;
    if (resumed !== undefined) {
      resumed.end = at;
      unfinished.delete(thread);
      continue;
    }
    const [, name] = /^(\w+)\(/.exec(rest) ?? [];
    if (name === undefined) continue;
    const call = { name, text: rest, begin: at, end: at };
    calls.push(call);
    if (rest.endsWith('<unfinished ...>')) unfinished.set(thread, { ...call, end: Number.POSITIVE_INFINITY });
    const kept = unfinished.get(thread);
    if (kept !== undefined && rest.endsWith('<unfinished ...>')) calls[calls.length - 1] = kept;
  }
  return calls;
}

const WRITES = new Set(['write', 'writev', 'pwrite64', 'pwritev']);
const SYNCS = new Set(['fsync', 'fdatasync']);

/**
 * For a process that writes to `file`, then speaks on standard output, then goes on: how often it spoke (texts that match
 * `said`), and how often a sync of the file, begun after the file was first written since it last spoke, had returned
 * before it spoke.
 */
export function syncsBefore(trace: string, file: string, said: RegExp): { acknowledged: number; synced: number } {
  const calls = parse(trace);
  const ofFile = (call: Call): boolean => call.text.includes(`${file}>`);
  let [acknowledged, synced, since] = [0, 0, 0];
  for (const call of calls) {
    const [, spoken] = /^write\(1<[^>]*>, "([^"]*)"/.exec(call.text) ?? [];
    if (spoken === undefined || !said.test(spoken)) continue;
    const written = calls.find((each) => WRITES.has(each.name) && ofFile(each) && each.begin > since);
    const done = calls.some((each) => {
      if (!SYNCS.has(each.name) || !ofFile(each)) return false;
      return written !== undefined && each.begin > written.end && each.end < call.begin;
    });
    acknowledged++;
    if (done) synced++;
    since = call.begin;
  }
  return { acknowledged, synced };
}
