create or replace function tasklane.create_webhook_endpoint(p_tenant_id int, p_name text, p_url text, p_event_types text[])
returns setof tasklane.webhook_endpoint
language plpgsql set search_path = tasklane as $$
-- A new endpoint with a secret of its own: it is sent the tenant's events of p_event_types.
-- Raises   TL400 when the tenant has 100.
-- Touches  tenant (locked), webhook_endpoint (insert).
declare
  v_number int := nextval(pg_get_serial_sequence('tasklane.webhook_endpoint', 'endpoint_number'));
begin
  -- One at a time: two could both be the hundredth.
  perform from tenant n where n.tenant_id = p_tenant_id for no key update;
  if (select count(*) from webhook_endpoint e where e.tenant_id = p_tenant_id) >= 100 then
    raise exception using errcode = 'TL400', message = 'You have 100 webhook endpoints, which is the maximum. Delete one first.';
  end if;
  -- The id begins with the number, 8 hex digits: who deletes what a list had can go on after the last of it.
  return query insert into webhook_endpoint (endpoint_number, endpoint_id, tenant_id, name, url, event_types, signing_secret)
               overriding system value
               values (v_number, 'whe_' || lpad(to_hex(v_number), 8, '0') || random_id('', 14), p_tenant_id, p_name, p_url, p_event_types,
                       new_secret())
               returning *;
end
$$;

create or replace function tasklane.update_webhook_endpoint(p_endpoint_id text, p_tenant_id int default null, p_name text default null,
                                                            p_url text default null, p_event_types text[] default null)
returns setof tasklane.webhook_endpoint
language plpgsql set search_path = tasklane as $$
-- Changes an endpoint (of that tenant); what is null stays. What waits to be delivered goes to the new URL.
-- Returns  the endpoint; no row when there is none.
-- Touches  webhook_endpoint, callback_delivery (update).
declare
  v_endpoint webhook_endpoint;
begin
  update webhook_endpoint e set
    name = coalesce(p_name, e.name), url = coalesce(p_url, e.url), event_types = coalesce(p_event_types, e.event_types),
    updated_at = case when p_name <> e.name or p_url <> e.url or not (p_event_types @> e.event_types and p_event_types <@ e.event_types)
                   then now() else e.updated_at end
  where e.endpoint_id = p_endpoint_id and (p_tenant_id is null or e.tenant_id = p_tenant_id)
  returning * into v_endpoint;
  if found then
    update callback_delivery d set url = v_endpoint.url
    where d.endpoint_number = v_endpoint.endpoint_number and d.status = 'pending' and d.url <> v_endpoint.url;
    return next v_endpoint;
  end if;
end
$$;

create or replace function tasklane.rotate_webhook_secret(p_endpoint_id text, p_tenant_id int default null, p_keep_former boolean default false)
returns setof tasklane.webhook_endpoint
language sql set search_path = tasklane as $$
  -- A new secret for an endpoint (of that tenant); with p_keep_former the one before signs as well for 24 hours, else it no longer does.
  -- Returns the endpoint; no row when there is none.
  update webhook_endpoint e set
    signing_secret = new_secret(), updated_at = now(),
    former_secret = case when p_keep_former then e.signing_secret end,
    former_until = case when p_keep_former then now() + interval '24 hours' end
  where e.endpoint_id = p_endpoint_id and (p_tenant_id is null or e.tenant_id = p_tenant_id)
  returning *
$$;

create or replace function tasklane.delete_webhook_endpoint(p_endpoint_id text, p_tenant_id int default null) returns boolean
language plpgsql set search_path = tasklane as $$
-- Removes an endpoint (of that tenant) with its deliveries. Returns whether there was one.
declare
  v_number int;
begin
  delete from webhook_endpoint e
  where e.endpoint_id = p_endpoint_id and (p_tenant_id is null or e.tenant_id = p_tenant_id)
  returning e.endpoint_number into v_number;
  -- A statement of its own: the one above may have waited for a send_webhooks, whose rows it can't see.
  delete from callback_delivery d where d.endpoint_number = v_number;
  return v_number is not null;
end
$$;

create or replace function tasklane.webhook_secrets(p_endpoint tasklane.webhook_endpoint) returns text[]
language sql stable as $$
  -- The secrets that sign what an endpoint is sent now.
  select case when p_endpoint.former_until > now() then array[p_endpoint.signing_secret, p_endpoint.former_secret]
           else array[p_endpoint.signing_secret] end
$$;

create or replace function tasklane.new_event(p_type text, p_data json) returns json
language sql volatile set search_path = tasklane as $$
  -- What an endpoint is sent: an event that happens now, under an id of its own.
  select json_build_object('id', random_id('evt_'), 'object', 'event', 'type', p_type,
                           'created_at', floor(extract(epoch from now()))::bigint, 'data', p_data)
$$;

create or replace function tasklane.send_webhooks(p_tenant_id int, p_type text, p_data json) returns int
language plpgsql set search_path = tasklane as $$
-- Tells the tenant's endpoints that want events of p_type of one; all get the same event. To be called where it happens, in that
-- transaction: it is delivered when that has committed.
-- select tasklane.send_webhooks(1, 'batch.completed', '{"id": "BATCH-…"}');
-- Returns  how many it will be sent to.
-- Touches  webhook_endpoint (locked: a change of one waits, and then sees the deliveries), callback_delivery (insert).
declare
  v_event json := new_event(p_type, p_data);
  v_sent int;
begin
  insert into callback_delivery (tenant_id, url, endpoint_number, event)
  select p_tenant_id, e.url, e.endpoint_number, v_event
  from (select * from webhook_endpoint e where e.tenant_id = p_tenant_id and p_type = any (e.event_types)
        order by e.endpoint_number for share) e;
  get diagnostics v_sent = row_count;
  return v_sent;
end
$$;

create or replace function tasklane.sample_webhook(p_endpoint_id text, p_tenant_id int, p_type text)
returns table (webhook_id text, task_id text, url text, secrets text[], body text)
language sql volatile set search_path = tasklane as $$
  -- What an endpoint (of that tenant) would be sent if a batch ended so now, which has an id that none has; no row when there is no such endpoint.
  select s.event ->> 'id', null, e.url, webhook_secrets(e), s.event::text
  from webhook_endpoint e
  cross join lateral (select new_event(p_type, '{"id": "BATCH-0-1-250101000000-0000-000000"}') as event) s
  where e.endpoint_id = p_endpoint_id and (p_tenant_id is null or e.tenant_id = p_tenant_id)
$$;
