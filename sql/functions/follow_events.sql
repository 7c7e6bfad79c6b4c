create or replace function tasklane.open_feed(p_keep_seconds int) returns bigint
language plpgsql set search_path = tasklane as $$
-- Has events recorded from now on, and for p_keep_seconds after the last call; called when a feed opens, and again now and then while it is
-- open. The row is written only when that moves the end by more than a tenth: recording reads it in every call.
-- Returns  the highest number given so far: what is staged already has one then, and what happens from now on gets a higher one.
-- Touches  event_feed (update), event_stage, event, as number_events; waits for another that numbers.
begin
  update event_feed set recording_until = now() + make_interval(secs => p_keep_seconds)
  where recording_until < now() + make_interval(secs => p_keep_seconds * 0.9);
  perform pg_advisory_xact_lock(hashtext('tasklane.number_events'));
  while (select n.moved > 0 from number_events() n) loop
  end loop;
  return (select case when n.is_called then n.last_value else 0 end from event_number n);
end
$$;

create or replace function tasklane.number_events(p_from bigint default 0, p_limit int default 5000) returns table (moved int, last_seq bigint)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Moves up to p_limit staged events on, in the order of their staging, and numbers them. One at a time, and the next one begins after the
-- commit: numbers become visible in their order, so a reader who goes by number misses none.
-- p_from: the lowest seq that can still be there, 0 when not known. Below lie dead rows, and a walk over them is long while another session
-- holds an old snapshot.
-- Returns  how many it moved, and the highest seq among them; no row when another is at it.
-- Touches  event_stage (delete), event (insert).
begin
  if not pg_try_advisory_xact_lock(hashtext('tasklane.number_events')) then
    return;
  end if;
  -- A statement of its own, so that it sees what was committed before we had the lock.
  return query
  with gone as (
    delete from event_stage where ctid = any (array(
      select s.ctid from event_stage s where s.seq >= p_from order by s.seq limit p_limit))
    returning *
  ), numbered as (
    insert into event (number, created_at, id, attempt, type, status, data)
    select nextval('event_number'), g.created_at, g.id, g.attempt, g.type, g.status, g.data
    from (select * from gone order by seq) g
  )
  select count(*)::int, max(g.seq) from gone g;
end
$$;

create or replace function tasklane.read_feed(
  p_after bigint, p_limit int default 1000, p_tenant_id int default null, p_types text[] default null, p_queue text default null,
  p_id bigint default null, p_batch_id text default null
) returns table (
  number bigint, type text, id bigint, task_id text, queue text, level int, status text, attempt int, created_at timestamptz,
  batch_id text, data text, tenant_id int
)
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Looks at the next p_limit events after number p_after, as many as have 1 MiB of data but one at least, and gives those that match what is
-- not null: the tenant, one of the types, the queue, the task, the batch.
-- Returns  them in order. The last event that was looked at is there in any case, with nothing but its number where it does not match, so that
--          the caller knows where to go on. An event whose task retention has removed matches nothing.
#variable_conflict use_column
declare
  v_to bigint;
  v_bytes int := 0;
  v_next record;
begin
  -- A loop, since it stops where a sum over all rows would unpack the data of each.
  for v_next in
    select e.number, coalesce(octet_length(e.data::text), 0) as bytes from event e where e.number > p_after order by e.number limit p_limit
  loop
    v_bytes := v_bytes + v_next.bytes;
    exit when v_to is not null and v_bytes > 1024 * 1024;
    v_to := v_next.number;
  end loop;
  return query
  select k.number, k.type::text, k.id, f.task_id, f.queue, f.level::int, k.status, k.attempt, k.created_at, f.batch_id, k.data::text, f.tenant_id
  from event k
  left join lateral (
    select print_task_id(t.id, l.queue_id, l.level, t.mode) as task_id, q.queue, l.level, print_batch_id(t.batch_id) as batch_id, t.tenant_id
    from task t
    cross join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l
    cross join lateral (select * from queue q where q.queue_id = l.queue_id limit 1) q
    where t.id = k.id
      and (p_types is null or k.type::text = any (p_types)) and (p_id is null or k.id = p_id)
      and (p_tenant_id is null or t.tenant_id = p_tenant_id) and (p_queue is null or q.queue = p_queue)
      and (p_batch_id is null or t.batch_id = parse_batch_id(p_batch_id))
    limit 1   -- keeps the partitions of other days out
  ) f on true
  where k.number > p_after and k.number <= v_to and (f.task_id is not null or k.number = v_to)
  order by k.number;
end
$$;

create or replace function tasklane.delete_events(p_after bigint, p_keep_seconds int, p_limit int default 5000) returns bigint
language plpgsql set search_path = tasklane set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
-- Deletes events older than p_keep_seconds among the p_limit next ones after number p_after, up to the first that is younger. p_after: where the
-- call before came to, 0 at first; below it lie dead rows.
-- Returns  how far it came; null when there was nothing to delete.
declare
  v_until bigint;
begin
  select coalesce(min(o.number) filter (where o.created_at >= now() - make_interval(secs => p_keep_seconds)) - 1, max(o.number)) into v_until
  from (select e.number, e.created_at from event e where e.number > p_after order by e.number limit p_limit) o;
  delete from event e where e.number > p_after and e.number <= v_until;
  return case when found then v_until end;
end
$$;
