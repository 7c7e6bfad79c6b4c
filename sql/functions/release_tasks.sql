create or replace function tasklane.backoff(
  p_attempt int, p_initial_seconds float8, p_factor float8, p_max_seconds float8, p_jitter boolean
) returns float8
language sql volatile parallel safe as $$
  -- Seconds to wait after attempt p_attempt: least(max, initial x factor^(attempt - 1)), with jitter anything from nothing to that ("full
  -- jitter": Exponential Backoff And Jitter, AWS Architecture Blog, 2015).
  -- The power is bounded by e^600, since it would overflow: there any max is reached.
  select least(p_max_seconds, p_initial_seconds * p_factor ^ least(p_attempt - 1, 600 / ln(greatest(p_factor, 1.0001))))
         * case when p_jitter then random() else 1 end
$$;

create or replace function tasklane.release_tasks(
  p_ids bigint[], p_attempts int[], p_delays float8[], p_reasons text[], p_begun boolean[] default null,
  p_status_codes int[] default null, p_request_ids text[] default null, p_bodies text[] default null, p_headers text[] default null
) returns table (ord int, id bigint, verdict text, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean,
                 limited boolean, rank smallint)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Gives running tasks back, one element of each array a task: to run again after p_delays seconds (null: as the task's retry settings, or its
-- queue's, say). An attempt, where given, must be the one that runs. p_begun false: nothing was done for the task, so the attempt does not count,
-- and without a delay it waits where it was.
-- p_status_codes, p_request_ids, p_bodies, p_headers: the model server's answer, null in each for none. After a last attempt the task is dead with it.
-- A live task whose client waits then has no more than its queue's live_attempts, unless it has a number of its own. With p_begun false the answer
-- is a refusal. Those of one attempt are one row of task_attempt; refused for longer than its queue lets it be, the task is dead with the last.
-- Returns  a row a task, in order. verdict: waiting (at once, at lane and rank: lower the heads, wake who waits), deferred, dead (that was its
--          last attempt; the columns are end_tasks'). Where lane is null this call did nothing, and verdict is unknown or the state that
--          forbids it (running for a stale attempt).
-- Touches  running (delete), ready, deferred, task_attempt (insert, and update of refusals), task, lane, queue (read) and what end_tasks does.
#variable_conflict use_column
declare
  v_back record;
  v_since timestamptz[];  -- since when each has been refused under its attempt
begin
  if p_status_codes is not null then
    v_since := array(
      select h.taken_at
      from unnest(p_ids, p_begun, p_status_codes) with ordinality as i(id, begun, status_code, ord)
      left join lateral (select r.attempt from running r where r.id = i.id and not i.begun and i.status_code is not null limit 1) r on true
      left join lateral (select t.replayed_at from task t where t.id = i.id limit 1) t on true
      left join lateral (
        select h.taken_at from task_attempt h
        where h.id = i.id and h.attempt = r.attempt and h.refusals is not null and (t.replayed_at is null or h.ended_at > t.replayed_at)
        order by h.ended_at desc limit 1
      ) h on true
      order by i.ord);
  end if;
  with input as materialized (
    select distinct on (i.id) i.* from unnest(p_ids, p_attempts, p_delays, p_reasons, p_begun)
      with ordinality as i(id, attempt, delay, reason, begun, ord) order by i.id, i.ord
  ), locked as materialized (
    -- in the order of ids and by laterals, for the reasons that complete_tasks has
    select r.*, i.delay, coalesce(i.reason, 'released') as reason, coalesce(i.begun, true) as begun, i.ord,
           p_status_codes[i.ord] is not null as answered, coalesce(v_since[i.ord], r.taken_at) as since
    from input i
    cross join lateral (
      select * from running r where r.id = i.id and (i.attempt is null or i.attempt = r.attempt) and r.expires_at > now() for update
    ) r
  ), judged as materialized (
    select k.*,
           case when k.begun then k.attempt >= coalesce(t.max_attempts, case when k.answered and v.live then least(q.live_attempts, q.max_attempts)
                                                                             else q.max_attempts end)
                else k.answered and k.since + v.patience <= now() end as is_dead,
           case when k.begun then k.attempt else k.attempt - 1 end as counted,
           -- one that is refused is tried once more when its patience ends
           least(case when k.answered and not k.begun then k.since + v.patience end, now() + make_interval(secs => coalesce(k.delay, case when not k.begun then 0 else backoff(k.attempt,
             coalesce((t.retry ->> 'initial_seconds')::float8, q.retry_initial_seconds), coalesce((t.retry ->> 'factor')::float8, q.retry_factor),
             coalesce((t.retry ->> 'max_seconds')::float8, q.retry_max_seconds), coalesce((t.retry ->> 'jitter')::boolean, q.retry_jitter)) end)))
             as run_at
    from locked k
    cross join lateral (select * from task t where t.id = k.id limit 1) t
    cross join lateral (select * from lane l where l.lane_id = k.lane_id limit 1) l
    cross join lateral (select * from queue q where q.queue_id = l.queue_id limit 1) q
    cross join lateral (select l.level = 0 and t.mode in ('blocking', 'streaming') as live offset 0) m
    cross join lateral (select m.live, make_interval(secs => case when m.live then q.live_refusal_seconds else q.refusal_seconds end) as patience offset 0) v
  )
  select coalesce(array_agg(j.id), '{}') as ids,
         coalesce(array_agg(j.ord), '{}') as ords,
         array_agg((j.id, j.attempt, j.taken_at, now(), j.worker, j.reason, null)::task_attempt) filter (where j.begun) as history,
         array_agg((j.id, j.attempt, j.since, now(), j.worker, j.reason, 1)::task_attempt) filter (where j.answered and not j.begun) as refusals,
         array_agg((j.id, j.attempt, j.taken_at, now(), j.worker, j.reason, null)::task_attempt) filter (where j.begun or j.is_dead or j.run_at > now()) as told,
         array_agg((j.id, now(), j.taken_at, 'dead', j.attempt, coalesce(p_status_codes[j.ord], 502), p_request_ids[j.ord], j.worker, p_bodies[j.ord]::json,
                    p_headers[j.ord]::json)::result) filter (where j.is_dead) as dead,
         array_agg((j.id, j.expires_at, j.lane_id, j.counted, j.rank, null, null)::ready)
           filter (where not j.is_dead and j.run_at <= now()) as ready,
         array_agg((j.id, j.expires_at, j.run_at, null, j.lane_id, j.counted, j.rank)::deferred)
           filter (where not j.is_dead and j.run_at > now()) as deferred
    into v_back
  from judged j;

  delete from running where id = any (v_back.ids);
  insert into task_attempt select * from unnest(v_back.history);
  if v_back.refusals is not null then
    with again as (
      update task_attempt h set ended_at = r.ended_at, worker = r.worker, reason = r.reason, refusals = h.refusals + 1
      from unnest(v_back.refusals) r where h.id = r.id and h.attempt = r.attempt and h.taken_at = r.taken_at and h.refusals is not null
      returning h.id
    )
    insert into task_attempt select * from unnest(v_back.refusals) r where r.id not in (select a.id from again a);
  end if;
  insert into deferred (id, expires_at, run_at, lane_id, attempt, rank)
  select d.id, d.expires_at, d.run_at, d.lane_id, d.attempt, d.rank from unnest(v_back.deferred) d;
  if recording() then
    insert into event_stage (id, attempt, type, status, data)
    select h.id, h.attempt, 'released', case when exists (select from unnest(v_back.deferred) d where d.id = h.id) then 'deferred'
                                             when exists (select from unnest(v_back.ready) w where w.id = h.id) then 'waiting' else 'dead' end,
           json_build_object('reason', h.reason)
    from unnest(v_back.told) h;
    perform record_events('retried', 'waiting', array_agg(w.id), array_agg(w.attempt)) from unnest(v_back.ready) w having count(*) > 0;
  end if;

  return query
  with ended as materialized (
    select * from end_tasks(v_back.dead)
  ), waiting as materialized (
    select * from make_ready(v_back.ready)
  )
  select i.ord::int, i.id,
         case when i.ord <> all (v_back.ords) then coalesce(task_state(i.id), 'unknown')
              when w.id is not null then 'waiting' when e.id is not null then 'dead' else 'deferred' end,
         e.task_id, q.queue || ':' || l.level, e.mode, e.instance_id, e.has_callback, coalesce(q.max_running is not null, false), w.rank
  from unnest(p_ids) with ordinality as i(id, ord)
  left join ended e on e.id = i.id and i.ord = any (v_back.ords)
  left join waiting w on w.id = i.id and i.ord = any (v_back.ords)
  left join lateral (select t.lane_id from task t where t.id = i.id and i.ord = any (v_back.ords) limit 1) t on true
  left join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l on true
  left join lateral (select * from queue q where q.queue_id = l.queue_id limit 1) q on true
  order by i.ord;
end
$$;
