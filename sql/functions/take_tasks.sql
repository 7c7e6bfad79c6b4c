create or replace function tasklane.lane_heads(
  p_lane_ids int[], p_hint_ranks smallint[], p_hint_ids bigint[], p_each int, p_before bigint default null
) returns table (turn int, nth int, lane_id int, rank smallint, id bigint)
language plpgsql stable rows 100
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- The first p_each waiting tasks of each lane, in the lane's order, without locking anything; expired ones are passed over.
-- Hints: the smallest (rank, id) that can still be alive in each lane, (0, 0) when not known. Everything below is dead, and
-- a walk over dead rows is what makes takes slow while another session holds an old snapshot.
-- p_before: only ids below, for takes that want a minimum age.
-- Plans are pinned here and in the callers: these tables swing between nothing and millions of rows, and with only
-- enable_seqscan off a take went from 1.3 to 565 ms under a held snapshot.
begin
  if p_before is null then
    return query
    select l.turn::int, row_number() over (partition by l.turn order by r.rank, r.id)::int, l.lane_id, r.rank, r.id
    from unnest(p_lane_ids, p_hint_ranks, p_hint_ids) with ordinality as l(lane_id, hint_rank, hint_id, turn)
    cross join lateral (
      select w.rank, w.id from tasklane.ready w
      where w.lane_id = l.lane_id and (w.rank, w.id) >= (l.hint_rank, l.hint_id) and w.expires_at > now()
      order by w.lane_id, w.rank, w.id limit p_each
    ) r;
  else
    -- Within a rank the old ones come first, so each rank is its own short range: one scan over all ranks would read
    -- every young task on the way.
    return query
    select l.turn::int, row_number() over (partition by l.turn order by r.rank, r.id)::int, l.lane_id, r.rank, r.id
    from unnest(p_lane_ids, p_hint_ranks, p_hint_ids) with ordinality as l(lane_id, hint_rank, hint_id, turn)
    cross join lateral (
      select o.rank, o.id
      from tasklane.lane_ranks(l.lane_id, l.hint_rank, l.hint_id) k(rank)
      cross join lateral (
        select w.rank, w.id from tasklane.ready w
        where w.lane_id = l.lane_id and w.rank = k.rank and w.id >= case when k.rank = l.hint_rank then l.hint_id else 0 end
          and w.id < p_before and w.expires_at > now()
        order by w.lane_id, w.rank, w.id limit p_each
      ) o
      order by o.rank, o.id limit p_each
    ) r;
  end if;
end
$$;

create or replace function tasklane.lane_ranks(p_lane_id int, p_rank smallint default 0, p_id bigint default 0) returns setof smallint
language plpgsql stable rows 4
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
-- The ranks that occur in a lane from (p_rank, p_id) on, ascending, by stepping through the index from one to the next.
declare
  v_rank smallint;
begin
  loop
    select w.rank into v_rank from tasklane.ready w
    where w.lane_id = p_lane_id and (w.rank, w.id) >= (p_rank, p_id) order by w.lane_id, w.rank, w.id limit 1;
    exit when not found;
    return next v_rank;
    p_rank := v_rank + 1;
    p_id := 0;
  end loop;
end
$$;

create or replace function tasklane.waiting_below(p_lanes text[], p_ranks smallint[], p_ids bigint[])
returns table (lane text, rank smallint, id bigint)
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- What waits below the hints that takes start from: the first task of each lane 'queue:level' before its (rank, id), of those that have one. Costs what
-- was deleted there and can't be cleaned up, so it is for a look beside takes.
#variable_conflict use_column
begin
  return query
  select u.lane, r.rank, r.id
  from unnest(p_lanes, p_ranks, p_ids) u(lane, hint_rank, hint_id)
  cross join lateral (select q.queue_id from queue q where q.queue = split_part(u.lane, ':', 1) and q.deleted_at is null limit 1) q
  cross join lateral (select l.lane_id from lane l where l.queue_id = q.queue_id and l.level = split_part(u.lane, ':', 2)::int limit 1) l
  cross join lateral (
    select w.rank, w.id from ready w
    where w.lane_id = l.lane_id and (w.rank, w.id) < (u.hint_rank, u.hint_id) and w.expires_at > now()
    order by w.lane_id, w.rank, w.id limit 1
  ) r;
end
$$;

create or replace function tasklane.take_tasks(
  p_lanes text[], p_sizes int[], p_strategy text, p_hint_ranks smallint[], p_hint_ids bigint[],
  p_endpoint text default null, p_min_age_seconds int default 0, p_lease_seconds int[] default null, p_workers text[] default null,
  p_max_attempts int[] default null
) returns table (
  request int, turn int, id bigint, rank smallint, task_id text, attempt int, ak text, instance text,
  endpoint text, queue text, level smallint, mode tasklane.response_mode, created_at timestamptz, expires_at timestamptz,
  batch_id text, trace_id text, custom_id text, callback_url text, metadata text, tops_up int, data text, more boolean, headers text
)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set join_collapse_limit = 1 set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Hands out waiting tasks of the lanes 'queue:level', each under a lease, for one or more requests in one go: request n
-- wants p_sizes[n] tasks for p_workers[n] under a lease of p_lease_seconds[n] (null: the queue's); when it lapses, p_max_attempts[n]
-- (null: the task's, or the queue's) decides whether the task goes back. Tasks are chosen by the strategy for all requests together, then
-- dealt out in that order, the first request first. No queue gets more running than its max_running.
-- fifo, round_robin, active_passive, sequential are described at take_fifo and so on.
-- Paused queues, and with p_endpoint those of other endpoints, yield nothing; expired tasks are never handed out.
-- Returns  the tasks in the order of the take; request is the index into p_sizes, turn into p_lanes. tops_up: the lane whose window of batches'
--          lines is now to be topped up. more: others may wait.
--          data is null from where the payloads of the call come to more than 32 MiB: the caller gives these back, with
--          return_tasks. (Leaving them out here would cost every take a second look at each task.)
-- Raises   TL404 for an unknown queue (before anything is taken), TL400 for a malformed lane or an unknown strategy.
-- Touches  ready (delete), running (insert), task, queue, lane (read). Never waits for a row: what others hold is skipped. Takes from a
--          queue with max_running wait for each other until their commits, which makes the limit exact.
#variable_conflict use_column
declare
  v_size int := (select sum(s) from unnest(p_sizes) s);
  v_before bigint := case when p_min_age_seconds > 0 then first_id_of(now() - make_interval(secs => p_min_age_seconds)) end;
  v_bad text;
  v_turns int[];
  v_lane_ids int[];
  v_hint_ranks smallint[];
  v_hint_ids bigint[];
  v_list int := hashtext(array_to_string(p_lanes, ','));
  v_last int := 0;
  v_recording boolean := recording();
  v_lane_queues int[];                                  -- by lane: its queue, where that has max_running
  v_rooms int[] := '{}';                                -- by queue: how many more may run
  v_limits int := 0;                                    -- how many of them there are
  v_cut boolean := false;
  v_left boolean := false;                              -- others may wait
  -- which request gets the nth task
  v_deal int[] := (select array_agg(s.request::int order by s.request)
                   from unnest(p_sizes) with ordinality as s(size, request), generate_series(1, s.size));
  v_want int;
  v_found int;
  v_got int;
  v_key_turns int[];
  v_key_lanes int[];
  v_key_ranks smallint[];
  v_key_ids bigint[];
  v_more record;
  v_ids bigint[] := '{}';
  v_attempts int[] := '{}';
  v_ranks smallint[] := '{}';
  v_taken_turns int[] := '{}';
  v_first bigint;
  v_last_id bigint;
begin
  select min(l.lane) into v_bad from unnest(p_lanes) as l(lane) where not is_lane(l.lane);
  if v_bad is not null then
    raise exception using errcode = 'TL400', message = format('%s is not a lane: write queue:level, with a level from 0 to 99', to_json(v_bad));
  end if;
  if p_strategy not in ('fifo', 'round_robin', 'active_passive', 'sequential') or p_strategy is null then
    raise exception using errcode = 'TL400', message = format('unknown strategy %s', to_json(p_strategy));
  end if;

  select min(n.name) filter (where q.queue_id is null),
         array_agg(u.turn::int order by u.turn) filter (where l.lane_id is not null),
         array_agg(l.lane_id order by u.turn) filter (where l.lane_id is not null),
         array_agg(coalesce(u.hint_rank, 0::smallint) order by u.turn) filter (where l.lane_id is not null),
         array_agg(coalesce(u.hint_id, 0) order by u.turn) filter (where l.lane_id is not null),
         array_agg(case when q.max_running is not null then q.queue_id end order by u.turn) filter (where l.lane_id is not null),
         count(distinct q.queue_id) filter (where l.lane_id is not null and q.max_running is not null)
    into v_bad, v_turns, v_lane_ids, v_hint_ranks, v_hint_ids, v_lane_queues, v_limits
  from unnest(p_lanes, p_hint_ranks, p_hint_ids) with ordinality as u(lane, hint_rank, hint_id, turn)
  cross join lateral (select split_part(u.lane, ':', 1) as name, split_part(u.lane, ':', 2)::smallint as level offset 0) n
  -- Lateral with a limit can't be turned round: planned while there are few queues, a join would go through all of them for each lane.
  left join lateral (select * from queue q where q.queue = n.name and q.deleted_at is null limit 1) q on true
  left join lateral (
    select l.lane_id from lane l where l.queue_id = q.queue_id and l.level = n.level
    and not q.paused and (p_endpoint is null or q.endpoint = p_endpoint) limit 1
  ) l on true;
  if v_bad is not null then
    raise exception using errcode = 'TL404', message = format('unknown queue %s', to_json(v_bad));
  end if;
  if v_lane_ids is null then
    return;
  end if;
  if (select count(distinct u.lane_id) < count(*) from unnest(v_lane_ids) u(lane_id)) then
    -- a lane listed twice counts once, where it stands first, with the lower hint
    select array_agg(d.turn order by d.turn), array_agg(d.lane_id order by d.turn), array_agg(d.hint_rank order by d.turn),
           array_agg(d.hint_id order by d.turn), array_agg(d.queue_id order by d.turn)
      into v_turns, v_lane_ids, v_hint_ranks, v_hint_ids, v_lane_queues
    from (select distinct on (u.lane_id) u.lane_id, u.hint_rank, u.hint_id, u.queue_id, min(u.turn) over (partition by u.lane_id) as turn
          from unnest(v_turns, v_lane_ids, v_hint_ranks, v_hint_ids, v_lane_queues) as u(turn, lane_id, hint_rank, hint_id, queue_id)
          order by u.lane_id, u.hint_rank, u.hint_id) d;
  end if;

  if p_strategy = 'round_robin' then
    v_last := lock_turn(v_list);
  end if;

  if v_limits > 0 then
    perform pg_advisory_xact_lock(hashtext('tasklane.max_running'), q.queue_id)
    from (select distinct u.queue_id from unnest(v_lane_queues) u(queue_id) where u.queue_id is not null order by 1) q;
    -- A statement of its own: it sees what was taken and ended while we waited.
    for v_more in
      select q.queue_id, q.max_running - (select count(*) from running r where r.queue_id = q.queue_id) as room
      from queue q where q.queue_id = any (v_lane_queues)
    loop
      v_rooms[v_more.queue_id] := greatest(0, v_more.room);
    end loop;
  end if;

  for v_round in 1..3 + v_limits loop
    if v_limits > 0 then
      -- lanes of queues that are full drop out
      select array_agg(u.turn order by u.place), array_agg(u.lane_id order by u.place), array_agg(u.hint_rank order by u.place),
             array_agg(u.hint_id order by u.place), array_agg(u.queue_id order by u.place)
        into v_turns, v_lane_ids, v_hint_ranks, v_hint_ids, v_lane_queues
      from unnest(v_turns, v_lane_ids, v_hint_ranks, v_hint_ids, v_lane_queues)
        with ordinality as u(turn, lane_id, hint_rank, hint_id, queue_id, place)
      where u.queue_id is null or v_rooms[u.queue_id] > 0;
      exit when v_lane_ids is null;
    end if;
    -- a few more than wanted: what another taker locks meanwhile is skipped
    v_want := v_size - cardinality(v_ids);
    if p_strategy = 'fifo' then
      select array_agg(c.turn), array_agg(c.lane_id), array_agg(c.rank), array_agg(c.id)
        into v_key_turns, v_key_lanes, v_key_ranks, v_key_ids
      from take_fifo(v_lane_ids, v_hint_ranks, v_hint_ids, v_want + 8 * v_round, v_before) c;
    elsif p_strategy = 'round_robin' then
      select array_agg(c.turn), array_agg(c.lane_id), array_agg(c.rank), array_agg(c.id)
        into v_key_turns, v_key_lanes, v_key_ranks, v_key_ids
      from take_round_robin(v_lane_ids, v_hint_ranks, v_hint_ids, v_want + 8 * v_round, v_before, v_turns, v_last) c;
    elsif p_strategy = 'active_passive' then
      select array_agg(c.turn), array_agg(c.lane_id), array_agg(c.rank), array_agg(c.id)
        into v_key_turns, v_key_lanes, v_key_ranks, v_key_ids
      from take_active_passive(v_lane_ids, v_hint_ranks, v_hint_ids, v_want + 8 * v_round, v_before) c;
    else
      select array_agg(c.turn), array_agg(c.lane_id), array_agg(c.rank), array_agg(c.id)
        into v_key_turns, v_key_lanes, v_key_ranks, v_key_ids
      from take_sequential(v_lane_ids, v_hint_ranks, v_hint_ids, v_want, v_before) c;
    end if;
    v_found := coalesce(cardinality(v_key_ids), 0);
    v_left := v_found > 0 and v_limits > 0;
    exit when v_found = 0;
    if v_limits > 0 then
      select coalesce(array_agg(k.turn order by k.place), '{}'), array_agg(k.lane_id order by k.place), array_agg(k.rank order by k.place),
             array_agg(k.id order by k.place), count(*) < v_found
        into v_key_turns, v_key_lanes, v_key_ranks, v_key_ids, v_cut
      from (
        select k.*, v_lane_queues[k.turn] as queue_id, row_number() over (partition by v_lane_queues[k.turn] order by k.place) as nth
        from unnest(v_key_turns, v_key_lanes, v_key_ranks, v_key_ids) with ordinality as k(turn, lane_id, rank, id, place)
      ) k
      where k.queue_id is null or k.nth <= v_rooms[k.queue_id];
    end if;

    with chosen as materialized (
      select k.place, k.turn, r.*
      from unnest(v_key_turns, v_key_lanes, v_key_ranks, v_key_ids) with ordinality as k(turn, lane_id, rank, id, place)
      -- Lateral with a lock can't be turned round: planned while ready is known to be empty, a join would begin with all of it.
      cross join lateral (
        select r.ctid as tid, r.* from ready r where r.lane_id = k.lane_id and r.rank = k.rank and r.id = k.id for update skip locked
      ) r
      order by k.place limit v_want
    ), gone as (
      delete from ready where ctid = any (array(select c.tid from chosen c))
    ), dealt as materialized (
      select c.*, q.queue_id, q.lease_seconds, v_deal[cardinality(v_ids) + row_number() over (order by c.place)] as request
      -- in this order, as in end_tasks
      from chosen c join lane l using (lane_id) join queue q using (queue_id)
    ), begun as (
      insert into running (id, expires_at, taken_at, lease_until, lane_id, queue_id, attempt, rank, worker, lease_seconds, max_attempts)
      select d.id, d.expires_at, now(), now() + make_interval(secs => d.lease), d.lane_id, d.queue_id, d.attempt + 1, d.rank,
             p_workers[d.request], d.lease, p_max_attempts[d.request]
      from (select d.*, coalesce(p_lease_seconds[d.request], d.lease_seconds) as lease from dealt d) d
    )
    select array_agg(d.id order by d.place) as ids, array_agg(d.attempt + 1 order by d.place) as attempts,
           array_agg(d.rank order by d.place) as ranks, array_agg(v_turns[d.turn] order by d.place) as turns,
           array_agg(d.queue_id order by d.place) filter (where v_limits > 0) as queues, min(d.id) as first, max(d.id) as last
      into v_more
    from dealt d;
    v_got := coalesce(cardinality(v_more.ids), 0);
    v_left := v_left or v_got < v_found;
    v_ids := v_ids || v_more.ids;
    v_attempts := v_attempts || v_more.attempts;
    v_ranks := v_ranks || v_more.ranks;
    v_taken_turns := v_taken_turns || v_more.turns;
    v_first := least(v_first, v_more.first);
    v_last_id := greatest(v_last_id, v_more.last);
    for n in 1..coalesce(cardinality(v_more.queues), 0) loop
      v_rooms[v_more.queues[n]] := v_rooms[v_more.queues[n]] - 1;
    end loop;
    exit when cardinality(v_ids) >= v_size or p_strategy = 'sequential' or (v_found < v_want + 8 * v_round and not v_cut);
  end loop;

  if p_strategy = 'round_robin' and cardinality(v_ids) > 0 then
    perform keep_turn(v_list, v_taken_turns[cardinality(v_taken_turns)]);
  end if;

  if v_recording then
    perform record_events('started', 'running', v_ids, v_attempts);
  end if;

  return query
  select v_deal[u.dealt], u.turn, t.id, u.rank, print_task_id(t.id, l.queue_id, l.level, t.mode), u.attempt, print_key_id(t.key_id),
         n.instance, q.endpoint, q.queue, l.level, t.mode, t.created_at, t.expires_at, print_batch_id(t.batch_id), t.trace_id, t.custom_id,
         t.callback_url, t.metadata::text, case when t.mode = 'batch' and t.id >= l.top_up_at then l.lane_id end,
         case when u.dealt = 1 or sum(octet_length(t.data::text)) over (order by u.dealt) <= 32 * 1024 * 1024 then t.data::text end,
         v_left, t.headers::text
  from unnest(v_ids, v_attempts, v_ranks, v_taken_turns) with ordinality as u(id, attempt, rank, turn, dealt)
  cross join lateral (select * from task t where t.id = u.id and t.id between v_first and v_last_id limit 1) t
  join lane l on l.lane_id = t.lane_id
  join queue q on q.queue_id = l.queue_id
  left join instance n on n.instance_id = t.instance_id
  order by u.dealt;
end
$$;
