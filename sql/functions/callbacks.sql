create or replace function tasklane.claim_callbacks(p_limit int default 50)
returns table (delivery_id bigint, webhook_id text, task_id text, url text, attempts int, secrets text[], body text)
language plpgsql set search_path = tasklane as $$
-- Due callbacks and events for one sender, up to p_limit or 32 MiB, which has 38 seconds before others may try them: no sender
-- waits for a receiver for as long, from its call of this on. attempts counts this one.
-- body is the event (task_id is null then), or the result's envelope as the worker wrote it, white space and all. webhook_id names the
-- message to its receivers, and each of secrets signs it.
#variable_conflict use_column
begin
  return query
  with due as materialized (
    select d.delivery_id, d.task_id, d.next_at from callback_delivery d
    where d.status = 'pending' and d.next_at <= now() order by d.next_at limit p_limit for update skip locked
  ), sized as materialized (
    select d.delivery_id, row_number() over w as nth, sum(octet_length(r.body::text)) over w as bytes
    from due d left join result r on r.id = d.task_id
    window w as (order by d.next_at, d.delivery_id)
  ), claimed as (
    update callback_delivery d set next_at = now() + interval '38 seconds', attempts = d.attempts + 1
    from sized s where d.delivery_id = s.delivery_id and (s.nth = 1 or coalesce(s.bytes, 0) <= 32 * 1024 * 1024)
    returning d.*
  )
  select c.delivery_id, c.event ->> 'id', null, c.url, c.attempts, webhook_secrets(e), c.event::text
  from claimed c
  join webhook_endpoint e using (endpoint_number)
  union all
  select c.delivery_id, 'msg_' || c.delivery_id, p.task_id, c.url, c.attempts, array[n.callback_secret], result_envelope(r, p.task_id)::text
  from claimed c
  join tenant n using (tenant_id)
  join result r on r.id = c.task_id
  join task t on t.id = c.task_id
  join lane l on l.lane_id = t.lane_id
  cross join lateral (select print_task_id(t.id, l.queue_id, l.level, t.mode) as task_id) p;
end
$$;

create or replace function tasklane.tried_for(p_delivery tasklane.callback_delivery) returns interval
language sql immutable as $$
  -- How long a delivery is tried.
  select case when p_delivery.event is null then interval '1 day' else interval '72 hours' end
$$;

create or replace function tasklane.settle_callbacks(p_delivery_ids bigint[], p_statuses int[], p_errors text[])
returns table (delivery_id bigint, status text, next_at timestamptz)
language sql set search_path = tasklane as $$
  -- How deliveries went: an error is null when the receiver took it (2xx). The first retry comes after 5 s, then twice as
  -- long each time up to an hour, for a day, and an event for 72 hours; then it is kept as failed.
  update callback_delivery d set
    status = case when i.error is null then 'delivered' when d.created_at < now() - tried_for(d) then 'failed' else 'pending' end,
    last_status = i.status, last_error = i.error,
    finished_at = case when i.error is null or d.created_at < now() - tried_for(d) then now() end,
    next_at = now() + least(interval '1 hour', interval '5 seconds' * 2 ^ least(d.attempts - 1, 20))
  from unnest(p_delivery_ids, p_statuses, p_errors) i(delivery_id, status, error)
  where d.delivery_id = i.delivery_id
  returning d.delivery_id, d.status, d.next_at
$$;

create or replace function tasklane.retry_callback(p_delivery_id bigint, p_tenant_id int default null) returns text
language plpgsql set search_path = tasklane as $$
-- Sends a failed delivery once more, now, with as much time for retries ahead as it had. Returns its id.
-- Raises   TL404 when there is no such delivery (of that tenant), TL409 when it has not failed.
declare
  v_delivery callback_delivery;
  v_status text;
begin
  select * into v_delivery from callback_delivery d
  where d.delivery_id = p_delivery_id and (p_tenant_id is null or d.tenant_id = p_tenant_id);
  -- First the row that it goes with: that of the task's result or of the endpoint, which may be on its way out.
  if v_delivery.event is null then
    perform from result r where r.id = v_delivery.task_id for share;
  else
    perform from webhook_endpoint e where e.endpoint_number = v_delivery.endpoint_number for key share;
  end if;
  if found then
    v_status := (select status from callback_delivery d where d.delivery_id = p_delivery_id for update);
  end if;
  if v_status is null then
    raise exception using errcode = 'TL404', message = format('unknown callback %s', p_delivery_id);
  end if;
  if v_status <> 'failed' then
    raise exception using errcode = 'TL409', message = format('callback %s is %s', p_delivery_id, v_status);
  end if;
  update callback_delivery set status = 'pending', next_at = now(), created_at = now(), finished_at = null where delivery_id = p_delivery_id;
  return p_delivery_id::text;
end
$$;

create or replace function tasklane.list_callbacks(p_tenant_id int default null, p_status text default null, p_before bigint default null, p_limit int default 20)
returns table (delivery_id bigint, task_id text, webhook_endpoint_id text, event_type text, url text, status text, attempts int, last_status int, last_error text,
               created_at timestamptz, next_at timestamptz, finished_at timestamptz)
language sql stable set search_path = tasklane as $$
  -- Deliveries, newest first: of a task's callback, or of an event to a webhook endpoint.
  select d.delivery_id, print_task_id(t.id, l.queue_id, l.level, t.mode), e.endpoint_id, d.event ->> 'type', d.url, d.status, d.attempts,
         d.last_status, d.last_error, d.created_at, d.next_at, d.finished_at
  from callback_delivery d
  left join task t on t.id = d.task_id
  left join lane l on l.lane_id = t.lane_id
  left join webhook_endpoint e on e.endpoint_number = d.endpoint_number
  where (t.id is not null or e.endpoint_number is not null) and (p_tenant_id is null or d.tenant_id = p_tenant_id) and (p_status is null or d.status = p_status)
    and (p_before is null or d.delivery_id < p_before)
  order by d.delivery_id desc limit p_limit
$$;

create or replace function tasklane.next_callback_at() returns timestamptz
language sql stable set search_path = tasklane as $$
  -- When the next delivery is due, if within a minute: servers look every 5 seconds as well.
  select d.next_at from callback_delivery d where d.status = 'pending' and d.next_at < now() + interval '1 minute'
  order by d.next_at limit 1
$$;
