/** What the system knows about a process: its memory, its sockets. Linux only. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Whether this machine tells. */
export const knowsProcesses = process.platform === 'linux';

/**
 * Memory of its own, MiB: what a data file's pages take in the system's cache is not counted, because the system takes
 * that back when it needs it. `undefined`: there is no such process any more.
 */
export function privateMb(pid: number): number | undefined {
  try {
    const [, kb] = /RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
    return kb === undefined ? undefined : Math.round(Number(kb) / 1024);
  } catch {
    return undefined;
  }
}

/** How long the main thread of a process was ready to run and did not get a processor, since its start, ms. */
export function processorWaitMs(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[1]) / 1e6;
  } catch {
    return 0;
  }
}

/** Processor time of all threads of a process since its start, ms. */
export function processorMs(pid: number): number {
  // Behind the name, which may hold anything; clock ticks are hundredths of a second.
  const [, facts = ''] = readFileSync(`/proc/${pid}/stat`, 'latin1').split(/\) (?=\S )/);
  const [user, system] = facts.split(' ').slice(11, 13).map(Number) as [number, number];
  return (user + system) * 10;
}

/** Sockets that it has open: by the system's number of each, its two ends and state. */
export function openSockets(pid: number): Map<string, string> {
  const ends = tcpSockets(pid);
  const folder = `/proc/${pid}/fd`;
  const open = new Map<string, string>();
  for (const name of readdirSync(folder)) {
    try {
      const [, id] = /^socket:\[(\d+)\]$/.exec(readlinkSync(`${folder}/${name}`)) ?? [];
      if (id !== undefined) open.set(id, ends.get(id) ?? 'not TCP, or closed since');
    } catch {
      // Closed in between.
    }
  }
  return open;
}

/** Waits until it has no sockets open beyond those `before`, and returns what is left of them by then. */
export async function socketsLeft(
  pid: number,
  before: ReadonlyMap<string, string>,
  withinMs: number,
): Promise<string[]> {
  const endMs = performance.now() + withinMs;
  for (;;) {
    const left = [...openSockets(pid)].filter(([id]) => !before.has(id)).map(([, ends]) => ends);
    if (left.length === 0 || performance.now() >= endMs) return left;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** What /proc calls the states of TCP that a socket in use has. */
const TCP_STATES: Readonly<Record<string, string>> = {
  '01': 'established',
  '04': 'we have ended',
  '05': 'we have ended',
  '08': 'the peer has ended',
  '0A': 'listening',
};

/** TCP sockets of its network, by the system's number: "127.0.0.1:80 - 127.0.0.1:5012, established". */
function tcpSockets(pid: number): Map<string, string> {
  const sockets = new Map<string, string>();
  for (const table of ['tcp', 'tcp6']) {
    for (const line of readFileSync(`/proc/${pid}/net/${table}`, 'latin1').split('\n').slice(1)) {
      const [, local, remote, state, , , , , , id] = line.trim().split(/\s+/);
      if (local === undefined || remote === undefined || state === undefined || id === undefined) continue;
      sockets.set(id, `${tcpAddress(local)} - ${tcpAddress(remote)}, ${TCP_STATES[state] ?? `state ${state}`}`);
    }
  }
  return sockets;
}

/** `0100007F:0050` is 127.0.0.1:80; longer addresses are left as the system writes them. */
function tcpAddress(text: string): string {
  const [host = '', port = ''] = text.split(':');
  const address = host.length === 8 ? [...Buffer.from(host, 'hex').reverse()].join('.') : host;
  return `${address}:${Number.parseInt(port, 16)}`;
}
