/**
 * Replays recorded Kyoto Tycoon conversations against a running server and compares byte for byte, as strictly as the
 * recording allows: a step's `mode` says where the reference's own answer is not the only right one.
 */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';

/** How a step's answer is compared. */
type Mode = 'exact' | 'map' | 'keys' | 'names' | 'status';

interface Step {
  readonly note: string;
  readonly mode: Mode;
  /** Base64. */
  readonly send: string;
  /** Base64. */
  readonly recv: string;
  readonly newConnection?: boolean;
  readonly waitMs?: number;
  readonly closedByServer?: boolean;
  /** The reference died of it: ours must say what was wrong and stay up. */
  readonly referenceCrashed?: boolean;
}

export interface Scenario {
  readonly name: string;
  readonly protocol: string;
  /** Of the plug-in, where the protocol is memcached's. */
  readonly memcachedOptions?: string;
  readonly databases: readonly string[];
  readonly steps: readonly Step[];
}

export interface Difference {
  /** Number of the step from 0, and its note. */
  readonly step: string;
  readonly why: string;
}

/** Longest wait for an answer; silence that counts as no answer; and for what must not come. */
const PATIENCE_MS = 5000;
const SILENCE_MS = 300;
const GRACE_MS = 15;

const sleep = async (ms: number): Promise<void> => await new Promise((resolve) => setTimeout(resolve, ms));

class Connection {
  readonly #socket: Socket;
  #received: Buffer[] = [];
  closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#received.push(chunk));
    socket.on('end', () => {
      this.closed = true;
    });
    socket.on('close', () => {
      this.closed = true;
    });
    socket.on('error', () => undefined);
  }

  static async open(port: number): Promise<Connection> {
    const socket = createConnection({ host: '127.0.0.1', port });
    await once(socket, 'connect');
    return new Connection(socket);
  }

  /** Sends, and returns what came back until it is complete, and a little longer. */
  async exchange(bytes: Buffer, isComplete: (received: Buffer) => boolean, patienceMs: number): Promise<Buffer> {
    this.#received = [];
    this.#socket.write(bytes);
    const start = performance.now();
    while (!this.closed && performance.now() - start < patienceMs && !isComplete(Buffer.concat(this.#received))) {
      await sleep(1);
    }
    await sleep(GRACE_MS);
    return Buffer.concat(this.#received);
  }

  /** Whether the server ends the connection; an end that is expected gets time. */
  async endsByServer(expected: boolean): Promise<boolean> {
    for (let waited = 0; expected && !this.closed && waited < 1000; waited += 5) await sleep(5);
    return this.closed;
  }

  close(): void {
    this.#socket.destroy();
  }
}

interface Reply {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/** The whole HTTP answers in `bytes`, and what is left over. */
function parseReplies(bytes: Buffer, isHead: boolean): { replies: Reply[]; rest: string } {
  const replies: Reply[] = [];
  let text = bytes.toString('latin1');
  for (;;) {
    const end = text.indexOf('\r\n\r\n');
    if (end < 0) return { replies, rest: text };
    const [first = '', ...lines] = text.slice(0, end).split('\r\n');
    const headers = new Map(
      lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    );
    const status = Number(first.split(' ')[1]);
    const length = isHead || status === 204 || status === 100 ? 0 : Number(headers.get('content-length') ?? 0);
    if (text.length < end + 4 + length) return { replies, rest: text };
    // Provisional answers are not compared: a client that waits for one gets one.
    if (status !== 100) replies.push({ status, headers, body: text.slice(end + 4, end + 4 + length) });
    text = text.slice(end + 4 + length);
  }
}

const decoders: Readonly<Record<string, (column: string) => string>> = {
  B: (column) => Buffer.from(column, 'base64').toString('latin1'),
  U: (column) => column.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
};

function pairsOf({ headers, body }: Reply): [string, string][] {
  const [, letter = ''] = /colenc=([A-Z])/.exec(headers.get('content-type') ?? '') ?? [];
  const decode = decoders[letter] ?? ((column: string) => column);
  const lines = body.split('\n').filter((line) => line !== '');
  return lines.map((line) => line.split('\t').map(decode) as [string, string]);
}

const show = (value: unknown): string => JSON.stringify(value).slice(0, 300);
const TABLE = 'text/tab-separated-values';
/** Headers that must be equal when the reference sent them, and absent when it did not. */
const SAME_HEADERS = ['x-kt-xt', 'x-kt-error', 'connection'];

function compareReply(mode: Mode, want: Reply, got: Reply, isHead: boolean): string | undefined {
  if (want.status !== got.status) return `status: want ${want.status}, got ${got.status} ${show(got.body)}`;
  if (mode === 'status') return undefined;
  for (const name of SAME_HEADERS) {
    const [wanted, found] = [want.headers.get(name), got.headers.get(name)];
    if (wanted !== found) return `${name}: want ${show(wanted)}, got ${show(found)}`;
  }
  if (isHead && want.headers.get('content-length') !== got.headers.get('content-length')) return 'content-length';
  const isTable = want.headers.get('content-type')?.startsWith(TABLE) === true;
  if (mode !== 'exact') return comparePairs(mode, pairsOf(want), pairsOf(got));
  if (isTable && want.headers.get('content-type') !== got.headers.get('content-type')) {
    return `content-type: want ${want.headers.get('content-type')}, got ${got.headers.get('content-type')}`;
  }
  return want.body === got.body ? undefined : `body: want ${show(want.body)}, got ${show(got.body)}`;
}

/** Names that tell of the machine or of the implementation. */
const OWN_NAMES = /^(conf_kc_|sys_)/;

function comparePairs(mode: Mode, want: [string, string][], got: [string, string][]): string | undefined {
  if (mode === 'names') {
    const names = new Set(got.map(([name]) => name));
    const missing = want.map(([name]) => name).filter((name) => !names.has(name) && !OWN_NAMES.test(name));
    return missing.length === 0 ? undefined : `missing ${missing.join(', ')}`;
  }
  const form = ([name, value]: [string, string]): string => {
    // Where order is free, the numbers that count it are free too.
    return mode === 'keys' && name.startsWith('_') ? name : `${name}\t${value}`;
  };
  const [a, b] = [want.map(form).sort(), got.map(form).sort()];
  return JSON.stringify(a) === JSON.stringify(b) ? undefined : `want ${show(a)}, got ${show(b)}`;
}

/** Answers that are no HTTP: all of it, the first word, or the names of statistics. */
function compareText(mode: Mode, want: string, got: string): string | undefined {
  const compared = (text: string): string => (mode === 'status' ? (text.split(' ')[0] as string) : text);
  if (mode !== 'names') return compared(want) === compared(got) ? undefined : `want ${show(want)}, got ${show(got)}`;
  const namesOf = (text: string): string[] => [...text.matchAll(/^STAT (\S+) /gm)].map(([, name]) => name as string);
  const names = new Set(namesOf(got));
  const missing = namesOf(want).filter((name) => !names.has(name));
  return missing.length === 0 ? undefined : `missing ${missing.join(', ')}`;
}

function compareStep(step: Step, got: Buffer): string | undefined {
  const want = Buffer.from(step.recv, 'base64');
  const isHead = Buffer.from(step.send, 'base64').subarray(0, 5).toString('latin1') === 'HEAD ';
  if (step.referenceCrashed === true) {
    const status = parseReplies(got, isHead).replies[0]?.status ?? 0;
    return status >= 400 && status < 500 ? undefined : `must answer 4xx, got ${show(got.toString('latin1'))}`;
  }
  if (!want.subarray(0, 5).equals(Buffer.from('HTTP/'))) {
    return compareText(step.mode, want.toString('latin1'), got.toString('latin1'));
  }
  const wanted = parseReplies(want, isHead).replies;
  const { replies, rest } = parseReplies(got, isHead);
  if (rest !== '' || wanted.length !== replies.length) {
    return `want ${wanted.length} answers, got ${replies.length} and ${show(rest)}`;
  }
  for (const [index, reply] of wanted.entries()) {
    const why = compareReply(step.mode, reply, replies[index] as Reply, isHead);
    if (why !== undefined) return why;
  }
  return undefined;
}

/** Whether all that the recording holds has come, in length if not in content. */
function completeness(step: Step): (received: Buffer) => boolean {
  const want = Buffer.from(step.recv, 'base64');
  const isHead = Buffer.from(step.send, 'base64').subarray(0, 5).toString('latin1') === 'HEAD ';
  if (want.length === 0) return (received) => received.length > 0;
  // Statistics differ in length: they are complete with their last line.
  if (step.mode === 'names' && want.toString().startsWith('STAT')) return (received) => received.includes('END\r\n');
  if (step.mode === 'status' && !want.toString().startsWith('HTTP/')) return (received) => received.includes('\r\n');
  if (want.subarray(0, 5).toString('latin1') !== 'HTTP/') return (received) => received.length >= want.length;
  const answers = parseReplies(want, isHead).replies.length;
  return (received) => parseReplies(received, isHead).replies.length >= answers;
}

/** Replays one scenario on empty databases; returns every step that was answered differently. */
export async function replay(scenario: Scenario, port: number): Promise<Difference[]> {
  const differences: Difference[] = [];
  let connection = await Connection.open(port);
  try {
    for (const [index, step] of scenario.steps.entries()) {
      if (step.waitMs !== undefined) await sleep(step.waitMs);
      if (step.newConnection === true || connection.closed) {
        connection.close();
        connection = await Connection.open(port);
      }
      const patienceMs = step.recv === '' ? SILENCE_MS : PATIENCE_MS;
      const got = await connection.exchange(Buffer.from(step.send, 'base64'), completeness(step), patienceMs);
      const closes = step.closedByServer === true && step.referenceCrashed !== true;
      const closed = await connection.endsByServer(closes);
      const why = compareStep(step, got) ?? (closed === closes ? undefined : `connection closed: ${closed}`);
      if (why !== undefined) differences.push({ step: `${index} ${step.note}`, why });
    }
  } finally {
    connection.close();
  }
  return differences;
}
