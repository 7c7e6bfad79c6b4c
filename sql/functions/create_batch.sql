create or replace function tasklane.create_batch(
  p_tenant_id int, p_key_id int, p_input_file_id text, p_endpoint text, p_completion_window text, p_window_seconds float8,
  p_queue text default null, p_metadata json default null, p_output_expires_seconds int default null, p_retry_of bigint default null,
  p_idempotency_key text default null, p_body_hash text default null, p_key_seconds int default 86400
) returns table (batch_id bigint, repeated boolean)
language plpgsql set search_path = tasklane as $$
-- A batch over a tenant's file, which is looked at afterwards. p_queue takes every line; null: each line goes by its model. With
-- p_idempotency_key, the same create again within p_key_seconds is the same batch; p_body_hash (hex) says whether it is the same.
-- Returns  the batch, and whether it had been there before.
-- Raises   TL404 (no such file of the tenant, no such queue), TL400 (a file for another purpose, a queue for another endpoint), TL409 (the key
--          was used for another body).
-- Touches  batch, idempotency_key (insert), file (a shared lock: it is not removed meanwhile).
#variable_conflict use_column
declare
  v_file file;
  v_route record;
  v_queue_id int;
  v_id bigint := new_task_id();
  v_key text := 'batch' || chr(31) || p_idempotency_key;
  v_known idempotency_key;
  -- The times of a batch are told in whole seconds, so its window is over at the moment that is told.
  v_now timestamptz := date_trunc('second', now());
begin
  if p_idempotency_key is not null then
    insert into idempotency_key as k (tenant_id, idempotency_key, body_hash, id, task_id, expires_at)
    values (p_tenant_id, v_key, decode(p_body_hash, 'hex'), v_id, print_batch_id(v_id), now() + make_interval(secs => p_key_seconds))
    on conflict (tenant_id, idempotency_key) do update
      set body_hash = excluded.body_hash, id = excluded.id, task_id = excluded.task_id, expires_at = excluded.expires_at
      where k.expires_at <= now();
    select * into v_known from idempotency_key k where k.tenant_id = p_tenant_id and k.idempotency_key = v_key;
    if v_known.body_hash <> decode(p_body_hash, 'hex') then
      raise exception using errcode = 'TL409', message = format('this idempotency key was used for another body, by %s', v_known.task_id);
    end if;
    if v_known.id <> v_id then
      return query select v_known.id, true;
      return;
    end if;
  end if;

  select * into v_file from file f
  where f.file_id = p_input_file_id and f.tenant_id = p_tenant_id and is_live(f)
  for share;
  if not found then
    raise exception using errcode = 'TL404', message = format('No such File object: %s', p_input_file_id);
  end if;
  if v_file.purpose <> 'batch' then
    raise exception using errcode = 'TL400', message = format('Input file must have purpose ''batch'', got ''%s''', v_file.purpose);
  end if;
  if p_queue is not null then
    -- Who deletes the queue waits for this, or is waited for.
    lock table task in row exclusive mode;
    select * into v_route from find_route(p_queue, p_endpoint, null);
    if v_route.code is not null then
      raise exception using errcode = v_route.code, message = v_route.message;
    end if;
    v_queue_id := v_route.queue_id;
  end if;

  insert into batch (batch_id, tenant_id, key_id, endpoint, input_file, input_file_id, completion_window, queue_id, metadata,
                     output_expires_seconds, retry_of, created_at, expires_at)
  values (v_id, p_tenant_id, p_key_id, p_endpoint, v_file.file_number, p_input_file_id, p_completion_window, v_queue_id, p_metadata,
          p_output_expires_seconds, p_retry_of, v_now, v_now + make_interval(secs => p_window_seconds));
  return query select v_id, false;
end
$$;

create or replace function tasklane.existing_batch(p_batch_id bigint, p_tenant_id int) returns tasklane.batch
language plpgsql set search_path = tasklane as $$
-- The batch, locked; of the tenant where one is given. Raises TL404 when there is no such batch.
declare
  v_batch batch;
begin
  select * into v_batch from batch b where b.batch_id = p_batch_id and (p_tenant_id is null or b.tenant_id = p_tenant_id) for no key update;
  if not found then
    raise exception using errcode = 'TL404', message = format('No batch found with id ''%s''.', print_batch_id(p_batch_id));
  end if;
  return v_batch;
end
$$;

create or replace function tasklane.cancel_batch(p_batch_id bigint, p_tenant_id int default null) returns void
language plpgsql set search_path = tasklane as $$
-- Withdraws a batch: what has been answered is kept, the rest is not run. Its lines end, and its files are written, by the work that follows.
-- Once more changes nothing.
-- Raises   TL404 (unknown, or another tenant's), TL409 when it has ended, or its window is over.
declare
  v_batch batch := existing_batch(p_batch_id, p_tenant_id);
  v_expired boolean := v_batch.ending = 'expired' or v_batch.status in ('validating', 'in_progress') and v_batch.expires_at <= now();
begin
  if v_batch.status in ('cancelling', 'cancelled') then
    return;
  end if;
  if v_expired or v_batch.status in ('completed', 'failed') then
    raise exception using errcode = 'TL409',
      message = format('Cannot cancel a batch with status ''%s''.', case when v_expired then 'expired' else v_batch.status end);
  end if;
  update batch b set status = 'cancelling', ending = 'cancelled', cancelling_at = now(), worked_at = null where b.batch_id = p_batch_id;
end
$$;

create or replace function tasklane.pause_batch(p_batch_id bigint, p_paused boolean, p_tenant_id int default null) returns void
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
-- Pauses a batch, or lets it go on: while it is paused none of its lines is handed out that was not before; what runs, runs on, and what is
-- given back is tried again.
-- Raises   TL404 (unknown, or another tenant's), TL409 when it has ended, or will.
-- Touches  batch, batch_lane (update), ready (delete).
declare
  v_batch batch := existing_batch(p_batch_id, p_tenant_id);
  v_lane record;
  v_first bigint;
begin
  if v_batch.status not in ('validating', 'in_progress') then
    raise exception using errcode = 'TL409',
      message = format('Cannot %s a batch with status ''%s''.', case when p_paused then 'pause' else 'resume' end, v_batch.status);
  end if;
  update batch b set paused = p_paused where b.batch_id = p_batch_id and b.paused <> p_paused;
  if not found or not p_paused then
    return;
  end if;
  -- The window goes back to where it was not released yet. (A top-up that is under way is waited for.)
  for v_lane in select * from batch_lane l where l.batch_id = p_batch_id for update loop
    with gone as (
      delete from ready where ctid = any (array(
        select w.ctid from task t cross join lateral lane_ranks(t.lane_id) k(rank)
        cross join lateral (
          select w.ctid from ready w where w.lane_id = t.lane_id and w.rank = k.rank and w.id = t.id and w.attempt = 0 for update skip locked) w
        where t.batch_id = p_batch_id and t.lane_id = v_lane.lane_id and t.id <= v_lane.released_through
          and not exists (select from result r where r.id = t.id offset 0)))
      returning id
    )
    select min(g.id) into v_first from gone g;
    update batch_lane l set released_through = v_first - 1, all_released = false
    where l.batch_id = p_batch_id and l.lane_id = v_lane.lane_id and v_first is not null;
  end loop;
end
$$;
