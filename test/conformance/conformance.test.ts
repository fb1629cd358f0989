/**
 * What a real Kyoto Tycoon answered, replayed against real nodes. Every difference is a decision, listed with its reason
 * in differences.json; one that is not listed fails, and so does a listed one that is gone.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { memcachedSettings } from '../../src/node/config/memcached-options.js';
import { Cluster, type ClusterNode } from '../support/cluster.js';
import { repository } from '../support/postgres.js';
import { replay, type Scenario } from './replayer.js';

interface Decision {
  readonly scenarios: readonly string[];
  readonly step: string;
  readonly reason: string;
}

/** The memcached listeners of every node, by the plug-in's options that scenarios name. */
const MEMCACHED = ['plain', '#opts=f', '#opts=fq#qtout=1'];

/** Which listener of a node speaks a scenario's protocol. */
const LISTENERS: Readonly<Record<string, (node: ClusterNode, scenario: Scenario) => number | undefined>> = {
  kt: (node) => node.clientPort,
  memcached: (node, { memcachedOptions = '' }) => node.memcachedPorts[MEMCACHED.indexOf(memcachedOptions)],
};

const corpus = join(repository(), 'test', 'fixtures', 'kt-corpus');
const read = <T>(...path: string[]): T => JSON.parse(readFileSync(join(...path), 'utf8')) as T;
const scenarios = readdirSync(corpus)
  .filter((name) => name.endsWith('.json'))
  .map((name) => read<Scenario>(corpus, name));
const decisions = read<Decision[]>(repository(), 'test', 'conformance', 'differences.json');

/** Scenarios by the databases they need, because each such set needs a node of its own. */
const byDatabases = new Map<string, Scenario[]>();
for (const scenario of scenarios) {
  const databases = scenario.databases.join(' ');
  byDatabases.set(databases, [...(byDatabases.get(databases) ?? []), scenario]);
}

async function clear(port: number, databases: number): Promise<void> {
  for (let index = 0; index < databases; index++) {
    const response = await fetch(`http://127.0.0.1:${port}/rpc/clear?DB=${index}`);
    assert.equal(response.status, 200, await response.text());
  }
}

describe('recorded Kyoto Tycoon conversations', { concurrency: true }, () => {
  let cluster: Cluster;
  before(async () => {
    cluster = await Cluster.create();
  });
  after(async () => await cluster.close());

  it('are all there', () => assert.equal(scenarios.length, 36));

  it('name their differences once, and each with a reason', () => {
    const names = decisions.flatMap((decision) =>
      decision.scenarios.map((scenario) => `${scenario}: ${decision.step}`),
    );
    assert.equal(new Set(names).size, names.length);
    for (const decision of decisions) {
      assert.ok(decision.reason.length > 20);
      for (const scenario of decision.scenarios)
        assert.ok(
          scenarios.some(({ name }) => name === scenario),
          scenario,
        );
    }
  });

  for (const [databases, group] of byDatabases) {
    describe(`databases ${databases}`, { concurrency: 1 }, () => {
      let node: ClusterNode;
      before(async () => {
        const memcached = MEMCACHED.map((options) => memcachedSettings(options === 'plain' ? '' : options));
        const name = `root${[...byDatabases.keys()].indexOf(databases)}`;
        node = await cluster.add({ name, role: 'root', memcached, config: { databases: group[0]?.databases } });
        cluster.start(node);
        await cluster.ready(node);
      });

      for (const scenario of group) {
        it(`${scenario.name}: the same answers, but for the decisions`, async () => {
          const port = LISTENERS[scenario.protocol]?.(node, scenario);
          assert.ok(port !== undefined, `no listener speaks ${scenario.protocol}`);
          await clear(node.clientPort, scenario.databases.length);
          const differences = await replay(scenario, port);
          const decided = decisions.filter((decision) => decision.scenarios.includes(scenario.name));
          assert.deepEqual(
            differences.map(({ step }) => step),
            decided.map(({ step }) => step),
            differences.map(({ step, why }) => `${step}: ${why}`).join('\n'),
          );
        });
      }
    });
  }
});
