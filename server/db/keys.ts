import { sql } from 'slonik';
import type { Role } from '../protocol/keys.ts';
import type { Database } from './open.ts';

export type Key = {
  key_id: number;
  id: string;
  role: Role;
  tenant: string;
  tenant_id: number;
  name: string;
  created_at: number;
};

/** The live key whose secret has this sha256 (hex). */
export async function findKey(db: Database, hash: string): Promise<Key | undefined> {
  const [key] = await db.query<Key>(sql.unsafe`
    select k.key_id, tasklane.print_key_id(k.key_id) as id, k.role, n.tenant, n.tenant_id, k.name, k.created_at
    from tasklane.api_key k join tasklane.tenant n using (tenant_id)
    where k.key_hash = decode(${hash}, 'hex') and k.revoked_at is null`);
  return key;
}

export async function makeKey(db: Database, hash: string, role: Role, tenant: string, name: string): Promise<Key> {
  const [key] = await db.query<Key>(sql.unsafe`
    with made as (
      insert into tasklane.api_key (key_hash, tenant_id, role, name)
      values (decode(${hash}, 'hex'), tasklane.make_tenant(${tenant}), ${role}, ${name}) returning *)
    select key_id, tasklane.print_key_id(key_id) as id, role, ${tenant}::text as tenant, tenant_id, name, created_at from made`);
  return key as Key;
}

export function readKeys(db: Database) {
  return db.query<Key>(sql.unsafe`
    select k.key_id, tasklane.print_key_id(k.key_id) as id, k.role, n.tenant, n.tenant_id, k.name, k.created_at
    from tasklane.api_key k join tasklane.tenant n using (tenant_id) where k.revoked_at is null order by k.key_id`);
}

/** Whether there was such a live key. */
export async function revokeKey(db: Database, keyId: number): Promise<boolean> {
  const gone = await db.query(sql.unsafe`
    update tasklane.api_key set revoked_at = now() where key_id = ${keyId} and revoked_at is null returning key_id`);
  return gone.length > 0;
}

/** The number of a tenant, made when it is new. */
export async function makeTenant(db: Database, tenant: string): Promise<number> {
  const [made] = await db.call<{ make_tenant: number }>('make_tenant', [tenant], ['text']);
  return (made as { make_tenant: number }).make_tenant;
}

/** A new secret for the tenant's callbacks, in place of the one there was. */
export async function rotateCallbackSecret(db: Database, tenantId: number): Promise<string> {
  const [made] = await db.call<{ rotate_callback_secret: string }>('rotate_callback_secret', [tenantId], ['int']);
  return (made as { rotate_callback_secret: string }).rotate_callback_secret;
}
