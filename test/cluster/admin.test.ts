/** The admin listener of a real node: health, readiness, status, and metrics that a scraper can read. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { Cluster, type ClusterNode } from '../support/cluster.js';

interface Family {
  readonly type: string;
  readonly samples: { readonly name: string; readonly labels: Record<string, string>; readonly value: number }[];
}

const LABELS = /^\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\}/;

/** Parses Prometheus' text format 0.0.4 strictly: whatever the format does not allow throws. */
function parse(text: string): Map<string, Family> {
  assert.ok(text.endsWith('\n'), 'the last line ends too');
  const families = new Map<string, Family>();
  let helped = '';
  for (const line of text.slice(0, -1).split('\n')) {
    const [, help] = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) .+$/.exec(line) ?? [];
    if (help !== undefined) {
      assert.ok(!families.has(help), `${help} comes once`);
      helped = help;
      continue;
    }
    const [, typed, type] =
      /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)$/.exec(line) ?? [];
    if (typed !== undefined && type !== undefined) {
      assert.equal(typed, helped);
      families.set(typed, { type, samples: [] });
      continue;
    }
    const [name = ''] = /^[a-zA-Z_:][a-zA-Z0-9_:]*/.exec(line) ?? [];
    const rest = line.slice(name.length);
    const [whole = '', inner = ''] = LABELS.exec(rest) ?? [];
    const value = Number(rest.slice(whole.length).trim());
    assert.ok(families.has(name) && name === helped && !Number.isNaN(value), `a sample: ${line}`);
    const labels = Object.fromEntries(
      [...inner.matchAll(/([a-zA-Z0-9_]+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text]),
    );
    families.get(name)?.samples.push({ name, labels, value });
  }
  return families;
}

describe('the admin listener', () => {
  let cluster: Cluster;
  let root: ClusterNode;
  let edge: ClusterNode;
  const ask = async (node: ClusterNode, path: string, method = 'GET') =>
    await fetch(`http://127.0.0.1:${node.adminPort}${path}`, { method });

  before(async () => {
    cluster = await Cluster.create();
    root = await cluster.add({ name: 'root', role: 'root', config: { databases: ['one', 'two'] } });
    edge = await cluster.add({ name: 'edge', role: 'edge', upstreams: [root] });
    cluster.start(root);
    await cluster.ready(root);
  });
  after(async () => await cluster.close());

  it('tells alive from ready: an edge without data is alive and not ready, and says why', async () => {
    const alone = await cluster.add({ name: 'alone', role: 'edge', upstreams: [edge] });
    cluster.start(alone);
    const deadline = performance.now() + 10_000;
    let health: Response | undefined;
    while (health === undefined) {
      health = await ask(alone, '/health').catch(() => undefined);
      assert.ok(performance.now() < deadline, cluster.log(alone));
    }
    assert.deepEqual([health.status, await health.text()], [200, 'alive\n']);
    const ready = await ask(alone, '/ready');
    assert.equal(ready.status, 503);
    assert.match(await ready.text(), /^not ready: no data yet/);
    assert.equal((await ask(alone, '/metrics')).status, 200);
    await cluster.stop(alone);
    assert.deepEqual([(await ask(root, '/ready')).status, await (await ask(root, '/ready')).text()], [200, 'ready\n']);
  });

  it('exposes metrics in the text format, counters named as such', async () => {
    cluster.start(edge);
    await cluster.ready(edge);
    await fetch(`http://127.0.0.1:${root.clientPort}/k`, { method: 'PUT', body: 'v' });
    for (const node of [root, edge]) {
      const response = await ask(node, '/metrics');
      assert.match(response.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
      const families = parse(await response.text());
      assert.ok(families.size >= 10);
      for (const [name, { type, samples }] of families) {
        assert.match(name, /^tokaido_/);
        assert.equal(type === 'counter', name.endsWith('_total'), name);
        assert.ok(samples.length > 0);
        assert.equal(
          new Set(samples.map(({ labels }) => JSON.stringify(labels))).size,
          samples.length,
          `${name} repeats labels`,
        );
      }
      const info = families.get('tokaido_info')?.samples[0];
      assert.deepEqual([info?.labels.name, info?.labels.role, info?.value], [node.name, node.role, 1]);
      assert.equal(families.get('tokaido_ready')?.samples[0]?.value, 1);
    }
    const families = parse(await (await ask(root, '/metrics')).text());
    const records = families.get('tokaido_records')?.samples.map(({ labels, value }) => [labels.database, value]);
    assert.deepEqual(records, [
      ['one', 1],
      ['two', 0],
    ]);
  });

  it('answers only GET and HEAD, and says what there is', async () => {
    assert.equal((await ask(root, '/status', 'POST')).status, 405);
    const unknown = await ask(root, '/nothing');
    assert.equal(unknown.status, 404);
    assert.match(await unknown.text(), /\/health, \/ready, \/status, \/metrics/);
    const head = await ask(root, '/status', 'HEAD');
    assert.deepEqual([head.status, await head.text()], [200, '']);
    const status = (await (await ask(root, '/status?x=1')).json()) as { name: string };
    assert.equal(status.name, 'root');
  });

  it('listens on loopback only unless told otherwise', { skip: process.platform !== 'linux' && 'reads /proc' }, () => {
    const listening = readFileSync('/proc/net/tcp', 'latin1')
      .split('\n')
      .filter((line) => line.includes(` 00000000:0000 0A `))
      .map((line) => line.trim().split(/\s+/)[1] as string);
    for (const port of [root.adminPort, root.clientPort, root.replicationPort]) {
      const hex = port.toString(16).toUpperCase().padStart(4, '0');
      assert.deepEqual(
        listening.filter((address) => address.endsWith(`:${hex}`)),
        [`0100007F:${hex}`],
      );
    }
  });
});
