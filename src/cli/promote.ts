/** `tokaido promote`: a relay, an edge or a root that stands by takes the place of the root. `tokaido unseen`: what came later. */
import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { messageOf, TokaidoError } from '../base/errors.js';
import { replaceFile } from '../disk/files.js';
import type { NodeConfig } from '../node/config/schema.js';
import { action, print, printJson } from './output.js';

/** How long the running node may take to be the root. */
const READY_MS = 60_000;
const POLL_MS = 100;

interface PromoteFlags {
  readonly config: string;
  readonly sid?: number;
  readonly certificate?: string;
  readonly key?: string;
  readonly peer: readonly string[];
  readonly replaces: readonly number[];
  readonly json?: boolean;
}

function sidFrom(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 65_535)
    throw new InvalidArgumentError('must be from 1 to 65535');
  return value;
}

/** `HOST:PORT` or `NAME@HOST:PORT`. */
function peerFrom(text: string): { address: string; name?: string } {
  const [, name, address] = /^(?:([^@]+)@)?(.+)$/.exec(text) ?? [];
  return { address: address ?? text, ...(name === undefined ? {} : { name }) };
}

const addressOf = ({ host, port }: { readonly host: string; readonly port: number }): string =>
  `${host.includes(':') ? `[${host}]` : host}:${port}`;

export function registerPromote(program: Command): void {
  program
    .command('promote')
    .description('make a relay, an edge or a root that stands by take the place of the root')
    .requiredOption(
      '--config <file>',
      "the node's configuration; it is changed, and kept beside as FILE.before-promote",
    )
    .option('--sid <number>', 'server id of the new root, which no root of the cluster ever had', sidFrom)
    .option('--certificate <file>', 'certificate of role root for it (`tokaido ca issue --role root`)')
    .option('--key <file>', 'its private key')
    .option(
      '--peer <address>',
      'root to exchange with, [NAME@]HOST:PORT; may repeat (the upstreams of the node): the old root, for when it comes back',
      (text: string, before: readonly string[]) => [...before, text],
      [],
    )
    .option(
      '--replaces <sid>',
      'server id of the root whose place it takes; may repeat (1)',
      (text: string, before: readonly number[]) => [...before, sidFrom(text)],
      [],
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Promote one node only, and only when the old root is gone or cut off. A relay's certificate does not make a root: have one
of role root ready. A node that runs changes over by itself, in the same process; its readers see about a second of
refused connections. What the old root had accepted and nobody had seen is merged when it comes back, and listed
(tokaido unseen); docs/operate/recover.md says how it comes back.

Examples:
  tokaido promote --config /etc/tokaido/relay-2.yaml --sid 2 --certificate root.crt --key root.key --peer root-1@10.0.0.1:1979
  tokaido promote --config /etc/tokaido/standby.yaml`,
    )
    .action(action(promote));
  program
    .command('unseen')
    .description('list what a replaced root had accepted, nobody had seen, and was merged when it came back')
    .requiredOption('--config <file>', 'configuration of the root that took its place')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  tokaido unseen --config /etc/tokaido/relay-2.yaml')
    .action(action(listUnseen));
}

async function promote(flags: PromoteFlags): Promise<void> {
  const { loadConfig, parseConfig, parseDocument } = await import('../node/config/load.js');
  const path = resolve(flags.config);
  const before = await loadConfig(path);
  if (before.role === 'root' && !before.standby)
    throw new TokaidoError('CONFIG', `${path} is the configuration of a root already`);
  const text = readFileSync(path, 'utf8');
  const document = parseDocument(text);
  if (before.role === 'root') document.set('standby', false);
  else await becomeRoot(document, before, flags);
  const changed = document.toString();
  // As the node would read it, before anything is changed.
  const after = parseConfig(changed, path);
  await checkIdentity(before, after);
  copyFileSync(path, `${path}.before-promote`);
  replaceFile(path, changed);
  const pid = runningProcess(after.data);
  if (pid !== undefined) await changeOver(pid, after);
  const peers = after.peers.map(addressOf);
  if (flags.json)
    printJson({ config: path, sid: after.sid, peers, replaces: after.replaces, isRunning: pid !== undefined });
  else {
    print(`${path}: role root, sid ${after.sid}; before it: ${path}.before-promote`);
    print(
      `exchanges with: ${peers.join(', ') || 'nobody'}${flags.peer.length > 0 ? '' : ' (remove those that are no roots)'}`,
    );
    print(pid === undefined ? 'start the node: it is the root then' : 'the node takes writes');
  }
}

type Document = ReturnType<typeof import('yaml')['parseDocument']>;

async function becomeRoot(document: Document, before: NodeConfig, flags: PromoteFlags): Promise<void> {
  const { sid, certificate, key } = flags;
  if (sid === undefined || certificate === undefined || key === undefined) {
    throw new TokaidoError('CONFIG', `a ${before.role} becomes a root with --sid, --certificate and --key`, {
      hint: 'issue a certificate of role root at the CA: tokaido ca issue',
    });
  }
  const peers =
    flags.peer.length > 0
      ? flags.peer.map(peerFrom)
      : // A peer is one root at one address: a name of SRV records names none.
        before.upstreams.filter(({ port }) => port !== 0).map((upstream) => ({ address: addressOf(upstream) }));
  document.set('role', 'root');
  document.set('sid', sid);
  document.delete('upstreams');
  if (document.hasIn(['replication', 'discover'])) document.deleteIn(['replication', 'discover']);
  document.set('peers', document.createNode(peers));
  document.set('replaces', document.createNode(flags.replaces.length > 0 ? flags.replaces : [1]));
  document.setIn(['identity', 'certificate'], resolve(certificate));
  document.setIn(['identity', 'key'], resolve(key));
  if (before.store.flush === 'at-stop') document.setIn(['store', 'flush'], 'commits');
}

/** Errors: `IDENTITY` for a certificate of another role, or of another name than the node has: its followers know that. */
async function checkIdentity(before: NodeConfig, after: NodeConfig): Promise<void> {
  if (before.identity === false || after.identity === false) return;
  const { loadNodeIdentity } = await import('../pki/identity.js');
  const { systemRuntime } = await import('../node/runtime.js');
  const nowMs = systemRuntime().nowMs();
  const { certificate } = after.identity;
  const { identity } = loadNodeIdentity(after.identity, nowMs);
  const hint = 'issue it at the CA, with the name that this node has: tokaido ca issue';
  if (identity.role !== 'root')
    throw new TokaidoError('IDENTITY', `${certificate} is of role ${identity.role}: a root needs one of role root`, {
      hint,
    });
  const { name } = loadNodeIdentity(before.identity, nowMs).identity;
  if (identity.name === name) return;
  throw new TokaidoError('IDENTITY', `${certificate} is of ${identity.name}, this node is ${name}`, { hint });
}

/** The process that uses a data directory. */
function runningProcess(folder: string): number | undefined {
  const path = join(folder, 'lock');
  const pid = existsSync(path) ? Number(readFileSync(path, 'utf8').split(' ')[0]) : Number.NaN;
  try {
    return Number.isInteger(pid) && process.kill(pid, 0) ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** The running node reads its configuration again, and is the root. */
async function changeOver(pid: number, { listen, sid }: NodeConfig): Promise<void> {
  process.kill(pid, 'SIGHUP');
  if (listen.admin === false) return;
  const { host, port } = listen.admin;
  const deadlineMs = performance.now() + READY_MS;
  let last = 'it does not answer';
  while (performance.now() < deadlineMs) {
    try {
      const response = await fetch(`http://${addressOf({ host, port })}/status`, { signal: AbortSignal.timeout(2000) });
      const status = (await response.json()) as import('../node/status/status.js').NodeStatus;
      if (status.role === 'root' && !status.recovering && status.ready) return;
      last = `it is ${status.role === 'root' ? 'a root that recovers' : `still a ${status.role}`}`;
    } catch (error) {
      last = messageOf(error);
    }
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
  throw new TokaidoError(
    'NOT_READY',
    `process ${pid} did not become the root ${sid} within ${READY_MS / 1000} s: ${last}`,
    {
      hint: 'its log says why; restart it: the configuration is changed',
    },
  );
}

async function listUnseen({ config, json }: { readonly config: string; readonly json?: boolean }): Promise<void> {
  const { loadConfig } = await import('../node/config/load.js');
  const { readUnseenWrites } = await import('../node/data/unseen-writes.js');
  const { data } = await loadConfig(config);
  const writes = readUnseenWrites(data);
  if (json) {
    printJson({ writes });
    return;
  }
  for (const { time, origin, sequence, database, kind, key, holds } of writes)
    print(
      `${time}  ${origin}:${sequence}  ${database}  ${kind}  ${key}${holds ? '' : '  (a newer write stands above it)'}`,
    );
  print(`${writes.length} changes`);
}
