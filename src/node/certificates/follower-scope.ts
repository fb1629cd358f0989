/** Who a follower is to replication, by the certificate of its link; a scope that this hides is opened by its HELLO. */
import { unreachable } from '../../base/errors.js';
import { openedParts } from '../../pki/hidden-scope.js';
import type { Peer } from '../../replication/link.js';
import { Scope } from '../../replication/scope.js';
import type { Link, LinkHandlers } from '../../transport/link.js';
import type { AuditTrail } from '../audit/trail.js';
import type { Replica } from '../replica.js';

/** `onOpened` hears who it is with what its certificate hid, and of `undefined` when that was not opened. */
export function followerOf(
  { peer, peerAddress: address, scope }: Pick<Link, 'peer' | 'peerAddress' | 'scope'>,
  onOpened: (peer: Peer | undefined) => void,
): Peer {
  const known = { name: peer.name, role: peer.role, address };
  switch (scope.kind) {
    case 'unsaid':
      return known;
    case 'parts':
      return { ...known, scope: Scope.of(scope.parts) };
    case 'hidden': {
      const openScope = (opening: Buffer | undefined): Scope | undefined => {
        const parts = opening === undefined ? undefined : openedParts(scope.name, opening);
        const opened = parts === undefined ? undefined : Scope.of(parts);
        onOpened(opened === undefined ? undefined : { ...known, scope: opened });
        return opened;
      };
      return { ...known, scope: Scope.NOTHING, openScope };
    }
    default:
      return unreachable(scope);
  }
}

/** Hands the link of a follower to replication, and writes down that it is there and what it may follow. */
export function acceptFollower(
  link: Link,
  { replica, audit }: { readonly replica: Replica; readonly audit: AuditTrail },
): LinkHandlers {
  const peer = followerOf(link, (opened) => {
    audit.scopeOpened(link, opened === undefined ? undefined : replica.scopeOf(opened));
  });
  const events = replica.accept(peer, link);
  const scope = peer.openScope === undefined ? replica.scopeOf(peer) : 'hidden';
  return audit.linked('follower', link, events, { scope });
}
