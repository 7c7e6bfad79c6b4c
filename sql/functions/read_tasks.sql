create or replace function tasklane.list_tasks(
  p_tenant_id int default null, p_queue text default null, p_level int default null, p_status text default null,
  p_after bigint default null, p_limit int default 20, p_ascending boolean default false, p_batch_id bigint default null
) returns setof bigint
language plpgsql stable set search_path = tasklane set enable_seqscan = off as $$
-- Ids of tasks, newest first (or oldest), after an id, filtered by tenant, queue, level and status.
-- Running and deferred tasks are sought among themselves; waiting ones at the ends of each lane's ranks, however many wait;
-- ended ones by walking back through time; those of a batch among its lines.
-- Raises   TL404 for an unknown queue.
#variable_conflict use_column
declare
  v_lanes int[] := case when p_queue is not null or p_level is not null or p_status = 'waiting' then array(
    select l.lane_id from lane l
    where (p_queue is null or l.queue_id = queue_of(p_queue)) and (p_level is null or l.level = p_level)) end;
  v_from text := case p_status when 'running' then 'running s' when 'deferred' then 'deferred s' when 'waiting' then
      '(select w.id, w.expires_at
        from unnest($2) l(lane_id) cross join lateral lane_ranks(l.lane_id) k(rank)
        cross join lateral (
          select w.id, w.expires_at from ready w join task u on u.id = w.id
          where w.lane_id = l.lane_id and w.rank = k.rank and ($1 is null or u.tenant_id = $1) and ($3 is null or w.id %1$s $3)
            and w.expires_at > now()
          order by w.lane_id %2$s, w.rank %2$s, w.id %2$s limit $4) w) s'
    else case when p_status is null then 'task s' else 'result s' end end;
begin
  perform queue_of(p_queue) where p_queue is not null;
  if p_batch_id is not null then
    return query execute format(
      'select n.id from (select distinct r.value::int as lane_id from batch b cross join lateral jsonb_each_text(b.routes) r where b.batch_id = $6) l
       cross join lateral (
         select t.id from task t where t.batch_id = $6 and t.lane_id = l.lane_id and ($1 is null or t.tenant_id = $1)
           and ($2 is null or t.lane_id = any($2)) and ($3 is null or t.id %1$s $3) and ($5 is null or task_state(t.id) = $5)
         order by t.batch_id %2$s, t.lane_id %2$s, t.id %2$s limit $4) n
       order by n.id %2$s limit $4',
      case when p_ascending then '>' else '<' end, case when p_ascending then 'asc' else 'desc' end)
    using p_tenant_id, v_lanes, p_after, p_limit, p_status, p_batch_id;
    return;
  end if;
  return query execute format(
    'select t.id from ' || v_from || ' join task t on t.id = s.id
     where ($1 is null or t.tenant_id = $1) and ($2 is null or t.lane_id = any($2)) and ($3 is null or s.id %1$s $3) and %3$s
     order by s.id %2$s limit $4',
    case when p_ascending then '>' else '<' end,
    case when p_ascending then 'asc' else 'desc' end,
    case when p_status is null then 'true' when p_status in ('waiting', 'running', 'deferred') then 's.expires_at > now()'
         else format('s.outcome = %L', p_status) end)
  using p_tenant_id, v_lanes, p_after, p_limit;
end
$$;

create or replace function tasklane.read_task_status(p_ids bigint[])
returns table (id bigint, task_id text, queue text, level smallint, status text, attempt int, response_mode tasklane.response_mode, endpoint text,
               ak text, tenant_id int, instance text, trace_id text, batch_id text, custom_id text, callback_url text, created_at timestamptz,
               expires_at timestamptz, taken_at timestamptz, completed_at timestamptz, priority int, metadata text, run_at timestamptz,
               data text, result text)
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Tasks with their state and payloads, in the order of the ids, as many as fit into 32 MiB and one at least; unknown ids are absent.
-- By laterals of one row, each found by its id: joined, a page of large tasks was at times read by scans of all tasks. Planned once a session: a
-- page of 200 took 3.4 times as long when it was planned each time.
#variable_conflict use_column
begin
  return query
  with sized as materialized (
    select i.id, row_number() over (order by i.place) as nth, sum(t.bytes + coalesce(r.bytes, 0)) over (order by i.place) as bytes
    from unnest(p_ids) with ordinality as i(id, place)
    cross join lateral (select octet_length(t.data::text) as bytes from task t where t.id = i.id limit 1) t
    left join lateral (select octet_length(r.body::text) as bytes from result r where r.id = i.id limit 1) r on true
  )
  select s.id, s.task_id, s.queue, s.level, s.status, s.attempt, s.response_mode, s.endpoint, s.ak, s.tenant_id, s.instance, s.trace_id, s.batch_id,
         s.custom_id, s.callback_url, s.created_at, s.expires_at, s.taken_at, s.completed_at, s.priority, s.metadata::text, s.run_at,
         s.data::text, s.result::text
  from sized z cross join lateral (select * from task_status s where s.id = z.id limit 1) s
  where z.nth = 1 or z.bytes <= 32 * 1024 * 1024 order by z.nth;
end
$$;

create or replace function tasklane.read_endings(p_ids bigint[])
returns table (id bigint, outcome tasklane.outcome, attempt int, status_code smallint, body text, headers text, envelope text)
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- How tasks ended, for those who wait for them; tasks that have not are absent. Planned once a session: in a language sql it was planned by each
-- call, which cost more than a put.
#variable_conflict use_column
declare
  v_first bigint;
  v_last bigint;
begin
  select min(i.id), max(i.id) into v_first, v_last from unnest(p_ids) i(id);
  return query
  select i.id, (e.result).outcome, (e.result).attempt, (e.result).status_code, (e.result).body::text, (e.result).headers::text,
         result_envelope(e.result, print_task_id(t.id, l.queue_id, l.level, t.mode))::text
  from unnest(p_ids) i(id)
  cross join lateral (select r as result from result r where r.id = i.id and r.id between v_first and v_last limit 1) e
  cross join lateral (select t.id, t.lane_id, t.mode from task t where t.id = i.id and t.id between v_first and v_last limit 1) t
  cross join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l;
end
$$;

create or replace function tasklane.attempts_so_far(p_id bigint, p_since timestamptz) returns int
language sql stable set search_path = tasklane as $$
  -- How often a waiting task has been taken in its present life, which began at p_since if it is not the first.
  select coalesce(max(h.attempt), 0) from task_attempt h where h.id = p_id and h.refusals is null and (p_since is null or h.ended_at > p_since)
$$;

create or replace function tasklane.attempts_of(p_id bigint)
returns table (attempt int, worker text, taken_at timestamptz, ended_at timestamptz, reason text, refusals int)
language sql stable set search_path = tasklane as $$
  -- A task's attempts, the first one first, those of former lives included. reason: why it ended: lapsed, released or what the worker said at its
  -- release, the task's outcome; null while it runs, as is ended_at. refusals: it is no attempt that counted, but as many refusals, from the first one's take to the last one's end.
  select a.* from (
    select h.attempt, h.worker, h.taken_at, h.ended_at, h.reason, h.refusals from task_attempt h where h.id = p_id
    union all
    select u.attempt, u.worker, u.taken_at, null, null, null from running u where u.id = p_id
    union all
    -- a death has its last attempt among the others
    select r.attempt, r.worker, r.taken_at, r.completed_at, r.outcome::text, null from result r where r.id = p_id and r.taken_at is not null and r.outcome <> 'dead'
  ) a order by a.taken_at, a.attempt
$$;
