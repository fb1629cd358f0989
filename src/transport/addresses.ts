/**
 * Where an upstream is reached: the addresses behind its host name, or behind a name of SRV records, asked for anew at each
 * attempt, so that a name may move while a node runs. All of them are candidates, in the order in which they are tried.
 */
import { lookup, Resolver } from 'node:dns/promises';
import { isIP } from 'node:net';
import { codeOf, messageOf, TokaidoError } from '../base/errors.js';

/** Most addresses of one name that are tried. */
const MAX_ADDRESSES = 16;
/** Most hosts of one name of SRV records whose addresses are asked for. */
const MAX_HOSTS = 8;
/** How long a DNS server may take to answer; it is asked twice. */
const ANSWER_MS = 2000;

/** A host of a service, as its SRV record says: of the lowest priority first, within one at random by weight. */
export interface ServiceHost {
  readonly name: string;
  readonly port: number;
  readonly priority: number;
  readonly weight: number;
}

/** What names stand for. */
export interface Names {
  /** Addresses (A and AAAA) of a host name, at least one. Errors: whatever says why there are none. */
  addresses(host: string): Promise<readonly string[]>;
  /** SRV records of a name, at least one. Errors: likewise. */
  services(name: string): Promise<readonly ServiceHost[]>;
}

/** Where to connect. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** Whether a host stands for a service, whose SRV records name hosts and ports. */
export function isService(host: string): boolean {
  return host.startsWith('_');
}

/**
 * Names as these DNS servers know them (`ADDRESS` or `ADDRESS:PORT`); without any, as the machine does: its hosts file and
 * its own DNS servers.
 */
export function namesOf(servers: readonly string[]): Names {
  const resolver = new Resolver({ timeout: ANSWER_MS, tries: 2 });
  if (servers.length > 0) resolver.setServers(servers);
  const services: Names['services'] = async (name) => await resolver.resolveSrv(name);
  if (servers.length === 0) {
    const addresses: Names['addresses'] = async (host) => {
      return (await lookup(host, { all: true })).map(({ address }) => address);
    };
    return { addresses, services };
  }
  const addresses: Names['addresses'] = async (host) => {
    const asked = await Promise.allSettled([resolver.resolve4(host), resolver.resolve6(host)]);
    const found = asked.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    if (found.length > 0) return found;
    const errors = asked.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason as unknown] : []));
    // That there is no address of one kind says less than why there is none of the other.
    throw errors.find((error) => codeOf(error) !== 'ENODATA') ?? errors[0];
  };
  return { addresses, services };
}

/** For people. */
function explain(name: string, what: string, error: unknown): string {
  switch (codeOf(error)) {
    case 'ENOTFOUND':
      return `there is no such name as ${name}`;
    case 'ENODATA':
      return `the name ${name} has no ${what}`;
    case 'ETIMEOUT':
    case 'ESERVFAIL':
    case 'EREFUSED':
    case 'ECONNREFUSED':
    case 'EAI_AGAIN':
      return `no DNS server answers what the name ${name} stands for (${messageOf(error)})`;
    default:
      return `the name ${name} cannot be resolved: ${messageOf(error)}`;
  }
}

async function asked<T>(name: string, what: string, answer: Promise<readonly T[]>): Promise<readonly T[]> {
  try {
    return await answer;
  } catch (error) {
    throw new TokaidoError('NETWORK', explain(name, what, error), {
      hint: 'look the name up on this machine; replication.dns says which servers are asked',
      cause: error,
    });
  }
}

/** From a random one on, so that followers spread over them. */
function rotated<T>(all: readonly T[], random: () => number): readonly T[] {
  const first = Math.floor(random() * all.length);
  return [...all.slice(first), ...all.slice(0, first)];
}

/** In the order in which they are tried: by priority, within one drawn by weight, as RFC 2782 has it. */
export function inServiceOrder(hosts: readonly ServiceHost[], random: () => number): ServiceHost[] {
  const left = [...hosts].sort((a, b) => a.priority - b.priority);
  const ordered: ServiceHost[] = [];
  for (let next = left[0]; next !== undefined; next = left[0]) {
    const { priority } = next;
    const tier = left.filter((host) => host.priority === priority);
    // One more than the weight: those of weight 0 shall have a small chance, too.
    const upTo = tier.map((_, index) => tier.slice(0, index + 1).reduce((sum, { weight }) => sum + weight + 1, 0));
    const drawn = random() * (upTo.at(-1) as number);
    const chosen = tier[upTo.findIndex((sum) => drawn < sum)] ?? next;
    ordered.push(chosen);
    left.splice(left.indexOf(chosen), 1);
  }
  return ordered;
}

/**
 * Where to try `host`, best first; at least one. Of a service, hosts that have no address are passed over while others
 * have. `port` does not matter for a service. Errors: `NETWORK`, naming the name.
 */
export async function endpointsOf(
  { host, port }: { readonly host: string; readonly port: number },
  names: Names,
  random: () => number,
): Promise<readonly Endpoint[]> {
  if (isIP(host) !== 0) return [{ address: host, port }];
  if (!isService(host)) {
    const addresses = await asked(host, 'address', names.addresses(host));
    return rotated(addresses, random)
      .slice(0, MAX_ADDRESSES)
      .map((address) => ({ address, port }));
  }
  const hosts = inServiceOrder(await asked(host, 'SRV record', names.services(host)), random);
  const endpoints: Endpoint[] = [];
  let problem: unknown = new TokaidoError('NETWORK', `the name ${host} says that there is no such service`);
  // A target of "." says that there is none.
  for (const { name, port: at } of hosts.filter(({ name: target }) => !/^\.?$/.test(target)).slice(0, MAX_HOSTS)) {
    try {
      endpoints.push(...(await endpointsOf({ host: name, port: at }, { ...names, services: refuse }, random)));
    } catch (error) {
      problem = error;
    }
  }
  if (endpoints.length === 0) throw problem;
  return endpoints.slice(0, MAX_ADDRESSES);
}

/** The host of a service is a host. */
async function refuse(name: string): Promise<never> {
  return await Promise.reject(new Error(`${name} is no host name`));
}
