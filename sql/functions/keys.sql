create or replace function tasklane.make_tenant(p_tenant text) returns int
language plpgsql set search_path = tasklane as $$
-- The tenant's number; a new one is made, with a secret of its own to sign callbacks. Raises TL400 for a name that can't be.
begin
  insert into tenant (tenant, callback_secret) values (p_tenant, new_secret()) on conflict (tenant) do nothing;
  return (select tenant_id from tenant where tenant = p_tenant);
exception when check_violation then
  raise exception using errcode = 'TL400', message = format('%s is not a tenant name: letters, digits, dot, dash, underscore, at most 64', to_json(p_tenant));
end
$$;

create or replace function tasklane.new_secret() returns text
language sql volatile as $$
  -- A Standard Webhooks secret from 366 random bits.
  select 'whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')
$$;

create or replace function tasklane.rotate_callback_secret(p_tenant_id int) returns text
language sql set search_path = tasklane as $$
  -- A new secret for the tenant's callbacks; deliveries from now on are signed with it.
  update tenant set callback_secret = new_secret() where tenant_id = p_tenant_id returning callback_secret
$$;
