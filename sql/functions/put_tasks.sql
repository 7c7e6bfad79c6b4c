create or replace function tasklane.make_lane(p_queue_id int, p_level int) returns int
language plpgsql set search_path = tasklane as $$
-- The lane's id; the lane is made when it is new. Two callers at once get the same one.
begin
  insert into lane (queue_id, level) values (p_queue_id, p_level) on conflict do nothing;
  return (select lane_id from lane where queue_id = p_queue_id and level = p_level);
end
$$;

create or replace function tasklane.new_task_id() returns bigint
language sql volatile as $$
  -- The id of a task that is made now. (Without a search_path of its own, so that it is inlined: a call costs 3 µs.)
  select tasklane.first_id_of(now()) + nextval('tasklane.task_number') % 10000000000
$$;

create or replace function tasklane.put_tasks(
  p_groups int[], p_tenant_ids int[], p_key_ids int[], p_queues text[], p_endpoints text[], p_levels int[],
  p_modes text[], p_priorities int[], p_timeouts int[], p_callback_urls text[], p_trace_ids text[],
  p_data text[], p_instance_id int default null, p_models text[] default null, p_options text[] default null,
  p_key_seconds int default 86400,
  p_taker_lanes text[] default null, p_taker_workers text[] default null, p_taker_leases int[] default null, p_taker_attempts int[] default null,
  p_awaited text[] default null, p_headers text[] default null
) returns table (ord int, id bigint, task_id text, lane text, rank smallint, state text, code text, message text, retry_after int,
                 ak text, endpoint text, created_at timestamptz, expires_at timestamptz, told boolean)
language plpgsql set search_path = tasklane set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
-- Puts tasks: one element of each array a task. Timeouts are in seconds, from run_at for callback tasks, from now for others.
-- p_instance_id: the server that holds the clients of blocking and streaming tasks. p_models: the data's models, where the caller has
-- read them already; a task without a queue is routed by its model. (Reading it here fails on data with an escape that Postgres can't
-- store, \u0000.)
-- p_options: JSON objects, null for none: run_at (epoch ms) or delay_seconds, max_attempts, retry, metadata, idempotency_key with body_hash
-- (hex). A key is remembered for p_key_seconds.
-- p_taker_lanes: the lane in which a take sleeps that is to have the task, null for none; p_taker_workers, p_taker_leases and p_taker_attempts are
-- what take_tasks is told of it. If the task does go to that lane, and the queue is neither paused nor limited, it runs at once: a put and its take in
-- one commit. The caller knows of nothing that waits in the lane.
-- p_awaited: lanes in which takes sleep at other servers. Those are told, with this commit, of what comes to wait there; for calls of few tasks, since
-- commits that notify follow one another.
-- p_headers: JSON objects of what goes on of the requests' headers to the model server, null for none.
-- Items of one group (p_groups) stand or fall together; other groups are not touched by a refusal.
-- Returns  a row an item, in order: the id, where it waits and its state (waiting, deferred; repeated: its key had put this task before; running:
--          it has been handed to its taker, and only then are ak, endpoint and the times set, as take_tasks gives them); told: other servers know
--          (true or null);
--          or code and message as find_route and admit_puts give them, and with TL429 the seconds after which to try again.
-- Touches  task, ready, running, deferred, lane_tally (insert), lane (insert when a level is new), queue, channel (read), and what admit_puts does.
#variable_conflict use_column
declare
  v_recording boolean := recording();
  v_limited boolean := exists (select from queue q where q.max_depth is not null)
                    or exists (select from tenant n where n.max_in_flight is not null or n.puts_per_second is not null);
  v_ids bigint[];
  v_repeated text[];
  v_codes text[];
  v_messages text[];
  v_retry_afters int[];
begin
  if p_options is not null or v_limited then
    select a.* into v_ids, v_repeated, v_codes, v_messages, v_retry_afters
    from admit_puts(p_groups, p_tenant_ids, p_queues, p_endpoints, p_levels, p_modes, p_timeouts, p_data, p_models, p_options, p_key_seconds, v_limited) a;
  end if;

  return query
  with input as materialized (
    -- The arrays are read by place, and the payloads not before they are stored: unnested together they were copied three times, a third of a put's cost.
    select i.ord, p_groups[i.ord] as grp, p_levels[i.ord] as level, p_queues[i.ord] as queue, p_endpoints[i.ord] as endpoint,
           case when p_queues[i.ord] is null then
             case when p_models is null then p_data[i.ord]::json ->> 'model' else p_models[i.ord] end end as model,
           -- what decides the lane, as one value that can be hashed; quoted, or one item could pose as another
           concat_ws(' ', p_levels[i.ord], quote_nullable(p_queues[i.ord]), quote_nullable(p_endpoints[i.ord]),
                     case when p_queues[i.ord] is null then
                       quote_nullable(case when p_models is null then p_data[i.ord]::json ->> 'model' else p_models[i.ord] end) end) as place
    from generate_series(1, cardinality(p_groups)) i(ord)
  ), place as materialized (
    -- calls mostly go to few places, so each is looked up once
    select p.place, f.queue_id, f.queue || ':' || p.level as lane, f.code, f.message, q.aging_seconds, q.endpoint, q.lease_seconds,
           q.paused or q.max_running is not null as held,
           case when f.code is null then coalesce(l.lane_id, make_lane(f.queue_id, p.level)) end as lane_id
    from (select distinct on (i.place) i.place, i.level, i.queue, i.endpoint, i.model from input i) p
    cross join lateral find_route(p.queue, p.endpoint, p.model) f
    -- one place at a time, however many lanes there are
    left join lateral (select l.lane_id from lane l where l.queue_id = f.queue_id and l.level = p.level limit 1) l on true
    left join queue q on q.queue_id = f.queue_id
  ), routed as materialized (
    select i.ord, i.grp, i.level, p.queue_id, p.lane, p.lane_id, p.aging_seconds, p.endpoint, p.lease_seconds,
           case when p_taker_lanes is not null then p_taker_lanes[i.ord] = p.lane and not p.held end as wanted, v_repeated[i.ord] as repeated,
           coalesce(p.code, v_codes[i.ord]) as code, coalesce(p.message, v_messages[i.ord]) as message
    from input i join place p using (place)
  ), item as materialized (
    select r.ord, r.level, r.queue_id, r.lane_id, r.aging_seconds, r.endpoint, r.lease_seconds, coalesce(v_ids[r.ord], new_task_id()) as id,
           p_modes[r.ord]::response_mode as mode, (100 - p_priorities[r.ord])::smallint as rank, o.run_at,
           coalesce(o.run_at > now(), false) as later, coalesce(r.wanted and (o.run_at > now()) is not true, false) as handed,
           greatest(now(), case when p_modes[r.ord] = 'callback' then o.run_at end) + make_interval(secs => p_timeouts[r.ord]) as expires_at
    from (select * from routed r
          where r.repeated is null and not exists (select from routed b where b.grp = r.grp and b.code is not null)
          order by r.ord) r
    cross join lateral (select case when p_options[r.ord] is not null then run_at_of(p_options[r.ord]::json) end as run_at offset 0) o
  ), put_task as (
    insert into task (id, created_at, expires_at, lane_id, tenant_id, key_id, instance_id, mode, rank, callback_url, trace_id, data,
                      max_attempts, retry, metadata, headers)
    select i.id, now(), i.expires_at, i.lane_id, p_tenant_ids[i.ord], p_key_ids[i.ord],
           case when i.mode in ('blocking', 'streaming') then p_instance_id end, i.mode, i.rank, p_callback_urls[i.ord], p_trace_ids[i.ord],
           p_data[i.ord]::json,
           case when p_options[i.ord] is not null then (p_options[i.ord]::json ->> 'max_attempts')::int end,
           case when p_options[i.ord] is not null then p_options[i.ord]::json -> 'retry' end,
           case when p_options[i.ord] is not null then p_options[i.ord]::json -> 'metadata' end,
           p_headers[i.ord]::json
    from item i
  ), put_ready as (
    insert into ready (id, expires_at, lane_id, attempt, rank, online, ages_at)
    select i.id, i.expires_at, i.lane_id, 0, i.rank, i.level = 0,
           case when i.aging_seconds > 0 and i.rank > 0 then now() + make_interval(secs => i.aging_seconds) end
    from item i where not i.later and not i.handed
  ), put_running as (
    insert into running (id, expires_at, taken_at, lease_until, lane_id, queue_id, attempt, rank, worker, lease_seconds, max_attempts)
    select i.id, i.expires_at, now(), now() + make_interval(secs => coalesce(p_taker_leases[i.ord], i.lease_seconds)), i.lane_id, i.queue_id, 1, i.rank,
           p_taker_workers[i.ord], coalesce(p_taker_leases[i.ord], i.lease_seconds), p_taker_attempts[i.ord]
    from item i where i.handed
  ), put_deferred as (
    insert into deferred (id, expires_at, run_at, lane_id, attempt, rank)
    select i.id, i.expires_at, i.run_at, i.lane_id, 0, i.rank from item i where i.later
  ), tally as (
    insert into lane_tally (lane_id, tenant_id, put_count, ended_count)
    select i.lane_id, p_tenant_ids[i.ord], count(*), 0 from item i group by 1, 2
  ), events as (
    insert into event_stage (id, attempt, type, status)
    select i.id, e.attempt, e.type, e.status
    from item i cross join lateral (
      values (0, 'submitted'::event_type, case when i.later then 'deferred' else 'waiting' end), (1, 'started', case when i.handed then 'running' end)
    ) e(attempt, type, status)
    where v_recording and e.status is not null order by i.ord, e.attempt
  )
  select r.ord, coalesce(i.id, case when r.repeated is not null then v_ids[r.ord] end),
         coalesce(r.repeated, print_task_id(i.id, i.queue_id, i.level, i.mode)), r.lane, (100 - p_priorities[r.ord])::smallint,
         case when r.repeated is not null then 'repeated' when i.later then 'deferred' when i.handed then 'running' when i.id is not null then 'waiting' end,
         r.code, r.message, v_retry_afters[r.ord],
         case when i.handed then print_key_id(p_key_ids[r.ord]) end, case when i.handed then i.endpoint end,
         case when i.handed then now() end, case when i.handed then i.expires_at end,
         case when r.lane = any (p_awaited) and not i.later and not i.handed then
           announce_waiting(r.lane, (100 - p_priorities[r.ord])::smallint, i.id, p_instance_id) end
  from routed r left join item i using (ord)
  order by r.ord;
end
$$;

create or replace function tasklane.run_at_of(p_options json) returns timestamptz
language sql stable parallel safe as $$
  -- When a task with these options of a put may run; null: at once.
  select coalesce(to_timestamp((p_options ->> 'run_at')::float8 / 1000), now() + make_interval(secs => (p_options ->> 'delay_seconds')::float8))
$$;
