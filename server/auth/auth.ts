import { hash, randomBytes, timingSafeEqual } from 'node:crypto';
import { findKey, makeKey, makeTenant, readKeys, revokeKey } from '../db/keys.ts';
import type { Database } from '../db/open.ts';
import { notFound, TasklaneError } from '../protocol/errors.ts';
import type { Role } from '../protocol/keys.ts';

/** Who calls: `keyId` is null for the admin key of the environment. */
export type Principal = { keyId: number | null; role: Role; tenant: string; tenantId: number };

/** The tenant whose things alone the caller may touch; null: all. */
export const ownerOf = (principal: Principal): number | null =>
  principal.role === 'client' ? principal.tenantId : null;

const KNOWN_MS = 5000;
const MAX_KNOWN = 10_000;

/** Keys are known by their sha256 alone: they are 256 random bits, so nothing slower is needed. */
const digest = (secret: string) => hash('sha256', secret, 'hex');

/** API keys: who a request comes from, and the keys' own life. */
export async function createAuth(db: Database, adminKey: string | undefined) {
  const admin: Principal = { keyId: null, role: 'admin', tenant: 'default', tenantId: await makeTenant(db, 'default') };
  const adminDigest = adminKey === undefined ? undefined : Buffer.from(digest(adminKey), 'hex');
  // Revoking clears this here and, by a message, on the other servers; a lost message makes that five seconds late.
  const known = new Map<string, { principal: Principal | undefined; until: number }>();

  const identify = async (secret: string): Promise<Principal | undefined> => {
    const hex = digest(secret);
    const cached = known.get(hex);
    if (cached && cached.until > performance.now()) return cached.principal;
    let principal: Principal | undefined;
    if (adminDigest && timingSafeEqual(Buffer.from(hex, 'hex'), adminDigest)) principal = admin;
    else {
      const key = await findKey(db, hex);
      principal = key && { keyId: key.key_id, role: key.role, tenant: key.tenant, tenantId: key.tenant_id };
    }
    if (known.size >= MAX_KNOWN) known.clear();
    known.set(hex, { principal, until: performance.now() + KNOWN_MS });
    return principal;
  };

  return {
    /** Whose key this is. Throws 401. */
    async principal(secret: string | undefined): Promise<Principal> {
      if (!secret) {
        throw new TasklaneError(401, 'an API key is needed: Authorization: Bearer <key>', {
          headers: { 'WWW-Authenticate': 'Bearer' },
        });
      }
      const principal = await identify(secret);
      if (!principal)
        throw new TasklaneError(401, 'this API key is not known', {
          headers: { 'WWW-Authenticate': 'Bearer' },
          openai: { param: null, code: 'invalid_api_key' },
        });
      return principal;
    },

    /** A new key; `secret` is shown here and never again. */
    async make(role: Role, tenant: string, name: string) {
      const secret = `sk-${randomBytes(32).toString('base64url')}`;
      return { secret, key: await makeKey(db, digest(secret), role, tenant, name) };
    },
    list: () => readKeys(db),
    /** Throws 404. */
    async revoke(keyId: number): Promise<void> {
      if (!(await revokeKey(db, keyId))) throw notFound(`unknown key key-${keyId}`);
      known.clear();
    },
    /** Keys changed on another server. */
    forget: () => known.clear(),
  };
}
export type Auth = Awaited<ReturnType<typeof createAuth>>;
