/** Names of upstreams: which addresses they stand for, in which order these are tried, and what is said when there are none. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { TokaidoError } from '../../src/base/errors.js';
import { endpointsOf, inServiceOrder, type Names, namesOf, type ServiceHost } from '../../src/transport/addresses.js';
import { DnsServer } from '../support/dns-server.js';
import { Dice } from '../support/random.js';

const first = (): number => 0;
const isNetwork =
  (said: RegExp) =>
  (error: unknown): boolean =>
    error instanceof TokaidoError && error.code === 'NETWORK' && said.test(error.message);

describe('a name of an upstream', () => {
  let dns: DnsServer;
  let names: Names;
  const host = (name: string, more: Partial<ServiceHost> = {}): ServiceHost => {
    return { name, port: 1979, priority: 0, weight: 0, ...more };
  };

  before(async () => {
    dns = await DnsServer.open({
      addresses: {
        'one.test': ['127.0.0.1'],
        'three.test': ['127.0.0.1', '127.0.0.2', '127.0.0.3'],
        'many.test': Array.from({ length: 40 }, (_, i) => `127.0.1.${i}`),
        'none.test': [],
      },
      services: {
        '_tokaido._tcp.test': [
          host('gone.test', { priority: 1 }),
          host('one.test', { priority: 2, port: 1980 }),
          host('three.test', { priority: 1, port: 1981 }),
        ],
        '_gone._tcp.test': [host('gone.test')],
        '_off._tcp.test': [host('.')],
        '_circle._tcp.test': [host('_circle._tcp.test')],
      },
    });
    names = namesOf([dns.address]);
  });
  after(async () => await dns.close());

  const at = async (name: string, random = first): Promise<string[]> => {
    const endpoints = await endpointsOf({ host: name, port: 7 }, names, random);
    return endpoints.map(({ address, port }) => `${address}:${port}`);
  };

  it('that is an address is not asked for', async () => {
    const before = dns.asked;
    assert.deepEqual(await at('10.0.0.1'), ['10.0.0.1:7']);
    assert.deepEqual(await at('::1'), ['::1:7']);
    assert.equal(dns.asked, before);
  });

  it('stands for all its addresses, from a random one on, and for what it stands for now', async () => {
    const found = new Set<string>();
    for (const roll of [0, 0.4, 0.9]) {
      const all = await at('three.test', () => roll);
      assert.deepEqual(all.toSorted(), ['127.0.0.1:7', '127.0.0.2:7', '127.0.0.3:7']);
      found.add(all[0] as string);
    }
    assert.equal(found.size, 3);
    assert.equal((await at('many.test')).length, 16);
    dns.zone = { ...dns.zone, addresses: { ...dns.zone.addresses, 'one.test': ['127.0.0.9'] } };
    assert.deepEqual(await at('one.test'), ['127.0.0.9:7']);
  });

  it('of SRV records stands for the addresses of their hosts, by priority; hosts without one are passed over', async () => {
    const all = await at('_tokaido._tcp.test');
    assert.deepEqual(all.slice(0, 3).toSorted(), ['127.0.0.1:1981', '127.0.0.2:1981', '127.0.0.3:1981']);
    assert.deepEqual(all.slice(3), ['127.0.0.9:1980']);
  });

  it('that stands for nothing is named in an error', async () => {
    for (const [name, said] of [
      ['gone.test', /no such name as gone\.test/],
      ['none.test', /the name none\.test has no address/],
      ['_none._tcp.test', /no such name as _none\._tcp\.test/],
      ['_gone._tcp.test', /no such name as gone\.test/],
      ['_off._tcp.test', /_off\._tcp\.test says that there is no such service/],
      ['_circle._tcp.test', /_circle\._tcp\.test cannot be resolved: .* is no host name/],
    ] as const)
      await assert.rejects(at(name), isNetwork(said), name);
    const nobody = await DnsServer.open({ addresses: {} });
    const { address } = nobody;
    await nobody.close();
    // Nothing listens there any more: loopback says so at once.
    const asked = endpointsOf({ host: 'one.test', port: 7 }, namesOf([address]), first);
    await assert.rejects(asked, isNetwork(/no DNS server answers what the name one\.test stands for/));
  });

  it('is what the machine says, without DNS servers of its own', async () => {
    const endpoints = await endpointsOf({ host: 'localhost', port: 7 }, namesOf([]), first);
    assert.ok(
      endpoints.every(({ address }) => address === '127.0.0.1' || address === '::1'),
      JSON.stringify(endpoints),
    );
    assert.ok(endpoints.length > 0);
  });
});

describe('the hosts of a service', () => {
  it('are all tried once, the lower priority first, and within one by weight', () => {
    const dice = new Dice(7);
    const hosts = [
      { name: 'heavy', port: 1, priority: 1, weight: 90 },
      { name: 'light', port: 1, priority: 1, weight: 8 },
      { name: 'last', port: 1, priority: 2, weight: 500 },
    ];
    const firsts = new Map<string, number>();
    for (let i = 0; i < 1000; i++) {
      const ordered = inServiceOrder(hosts, () => dice.roll()).map(({ name }) => name);
      assert.deepEqual(ordered.toSorted(), ['heavy', 'last', 'light']);
      assert.equal(ordered[2], 'last');
      firsts.set(ordered[0] as string, (firsts.get(ordered[0] as string) ?? 0) + 1);
    }
    const heavy = firsts.get('heavy') ?? 0;
    assert.ok(heavy > 850 && heavy < 970, `${heavy} of 1000`);
  });
});
