/** Binds the listener for Kyoto Tycoon servers that follow to the sessions that serve them, on the current store. */
import type { Logger } from '../base/logger.js';
import { newestVersion } from '../log/position.js';
import { KtReplicationServer } from '../replication/kyoto-tycoon/server.js';
import { Scope } from '../replication/scope.js';
import { ScopePolicy } from '../replication/scope-policy.js';
import type { FollowerStatus } from '../replication/sending/server.js';
import { listenForKtFollowers } from '../transport/kt-listener.js';
import type { StreamServer } from '../transport/stream-server.js';
import { ktScopeRules } from './config/policy-schema.js';
import type { NodeConfig } from './config/schema.js';
import type { Node } from './node.js';

/** As long as these servers themselves wait for an upstream. */
const SILENCE_MS = 60_000;

export class KtFollowers {
  readonly #node: Node;
  readonly #log: Logger;
  #server: KtReplicationServer | undefined;
  #listener: StreamServer | undefined;
  #scopes: ScopePolicy;

  private constructor(node: Node, log: Logger) {
    this.#node = node;
    this.#scopes = new ScopePolicy(ktScopeRules(node.config));
    this.#log = log;
  }

  /** `undefined` when the configuration opens no such listener. Errors: `NETWORK`, `IDENTITY`. */
  static async open(node: Node, log: Logger): Promise<KtFollowers | undefined> {
    const { kyotoTycoon: listener } = node.config.listen;
    if (listener === false) return undefined;
    const followers = new KtFollowers(node, log);
    followers.#serve();
    node.stores.onSwap(() => followers.#serve());
    if (listener.tls === false)
      log.warn({ allow: listener.allow }, 'Kyoto Tycoon servers at these addresses may read everything, in plaintext');
    const tls = node.certificates.clientTls(listener);
    node.audit.watchClientCa(`kyotoTycoon ${listener.host}:${listener.port}`, tls);
    followers.#listener = await listenForKtFollowers({
      host: listener.host,
      port: listener.port,
      allow: listener.allow,
      tls,
      keeper: node.clientKeeper,
      runtime: node.runtime,
      log,
      maxConnections: node.config.replication.maxFollowers,
      audit: node.audit,
      onLink: (address, link, name) => {
        const server = followers.#server;
        const session = server?.accept({ address, name }, link);
        if (session?.scope.isNothing === true) followers.#refused(address, name);
        // Without data there is nothing to follow yet; they come again by themselves.
        if (session === undefined) link.destroy();
        return {
          get isGreeting() {
            return session?.state === 'greeting';
          },
          onData: (chunk) => session?.onData(chunk),
          onDrain: () => session?.onDrain(),
          onClose: () => {
            if (session !== undefined) server?.closed(session);
          },
        };
      },
    });
    return followers;
  }

  /** (Re)starts on the current store. Followers connect again, with their time stamps. */
  #serve(): void {
    const store = this.#node.stores.current;
    this.#server?.close();
    if (store === undefined) return;
    const { replication } = this.#node.config;
    this.#server = new KtReplicationServer({
      store,
      runtime: this.#node.runtime,
      log: this.#log,
      heartbeatMs: replication.heartbeatMs,
      silenceMs: SILENCE_MS,
      queueBytes: replication.followerQueueBytes,
      snapshots: replication.snapshots,
      scopeFor: ({ name = '' }) => this.#scopes.for({ name, role: 'kyoto-tycoon' }) ?? Scope.NOTHING,
    });
  }

  #refused(address: string, name: string | undefined): void {
    const message = `listen.kyotoTycoon.scopes lets ${name ?? 'a peer without one common name'} follow nothing`;
    this.#log.warn({ address, reason: message }, 'a Kyoto Tycoon follower is refused');
    this.#node.audit.record('follower.refused', { address, name, reason: 'scope', message });
  }

  /** Takes the scopes of another configuration; links that carry something else than they should now are ended. */
  adopt(config: NodeConfig): void {
    this.#scopes = new ScopePolicy(ktScopeRules(config));
    this.#server?.recheckScopes();
  }

  /** What these followers are served from. */
  log(): { readonly bytes: number; readonly timestampNs: bigint } | undefined {
    const store = this.#node.stores.current;
    if (store === undefined) return undefined;
    return { bytes: store.statistics().logBytes, timestampNs: newestVersion(store.position()) };
  }

  get port(): number {
    return this.#listener?.port ?? 0;
  }

  list(): Omit<FollowerStatus, 'position'>[] {
    return this.#server?.followers() ?? [];
  }

  async close(): Promise<void> {
    this.#server?.close();
    await this.#listener?.close();
  }
}
