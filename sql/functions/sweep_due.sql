create or replace function tasklane.sweep_due(p_limit int default 1000, p_since timestamptz default '-infinity',
  p_served_seconds float8 default null)
returns table (outcome text, id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean,
               limited boolean, rank smallint, swept_at timestamptz)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- What time does to tasks, up to p_limit of each kind: lapsed leases put them back or make them dead, deferred ones come to wait, waiting ones
-- of queues that age move up a rank for each aging_seconds, and deadlines end them (those that wait in levels above 0 are sweep_ready's).
-- p_served_seconds: for how long workers could have been heard, null where that is long. After a break in which no heartbeat could come, a task has its
-- lease again, or 10 seconds of it, before that counts as lapsed; leave p_since where it was meanwhile.
-- One caller at a time; others get nothing. What was due before p_since has been seen to: without this hint, a sweep would walk over all that has
-- ended meanwhile, while another session holds an old snapshot. Nothing new becomes due in the past, but a commit may be late by moments.
-- Returns  waiting (it waits now, at lane and rank: lower the heads, wake who waits), moved (it waits at a better rank: lower the heads), freed (of
--          its lane something stopped running), dead and expired as end_tasks does; a row swept, with the time of this sweep, where nothing was left for want of p_limit; a row schedules,
--          where the ticks of some are due; a row batches, where some are open; a row upstreams,
--          where a worker says that a model server is out (see refuse_waiting).
-- Touches  running, deferred, ready (delete), ready (insert), schedule, batch, worker (read) and what take_back and end_tasks do.
#variable_conflict use_column
declare
  v_due record;
  v_gone running[];
  v_retried bigint[];
  v_retried_attempts int[];
  v_ended result[];
  v_waiting ready[];
  v_moved ready[];
  v_full boolean;
begin
  if not pg_try_advisory_xact_lock(hashtext('tasklane.sweep_due')) then
    return;
  end if;
  if exists (select from schedule s where s.enabled and s.next_run <= now()) then
    outcome := 'schedules';
    return next;
  end if;
  if exists (select from batch b where b.status in ('validating', 'in_progress', 'finalizing', 'cancelling')) then
    outcome := 'batches';
    return next;
  end if;
  if exists (select from worker w where w.last_seen > now() - interval '45 seconds' and w.upstreams::text ~ '"state" *: *"(refusing|failing|away)"') then
    outcome := 'upstreams';
    return next;
  end if;
  -- Mostly nothing is due, and to find that out is all that an idle server does.
  if not exists (select from running r where r.due_at <= now() and r.due_at >= p_since)
     and not exists (select from deferred d where d.due_at <= now() and d.due_at >= p_since)
     and not exists (select from ready w where w.online and w.expires_at <= now() and w.expires_at >= p_since)
     and not exists (select from ready w where w.ages_at is not null and w.ages_at <= now() and w.ages_at >= p_since) then
    outcome := 'swept';
    swept_at := now();
    return next;
    return;
  end if;

  with gone as (
    delete from running where ctid = any (array(
      select r.ctid from running r
      where r.due_at <= now() and r.due_at >= p_since
        and (p_served_seconds is null or r.expires_at <= now()
             or p_served_seconds >= least(10, coalesce(r.lease_seconds, (select q.lease_seconds from queue q where q.queue_id = r.queue_id))))
      order by r.due_at limit p_limit for update skip locked))
    returning *
  )
  select count(*) as found, array_agg(g::running) as gone into v_due from gone g;
  v_gone := v_due.gone;
  v_full := v_due.found = p_limit;

  with gone as (
    delete from deferred where ctid = any (array(
      select d.ctid from deferred d where d.due_at <= now() and d.due_at >= p_since order by d.due_at limit p_limit for update skip locked))
    returning *
  )
  select count(*) as found,
         array_agg((g.id, now(), null, 'expired', g.attempt, 408, null, null, null, null)::result) filter (where g.expires_at <= now()) as ended,
         array_agg((g.id, g.expires_at, g.lane_id, g.attempt, g.rank, null, null)::ready) filter (where g.expires_at > now()) as waiting,
         array_agg(g.id) filter (where g.expires_at > now() and g.attempt > 0) as ids,
         array_agg(g.attempt) filter (where g.expires_at > now() and g.attempt > 0) as attempts
    into v_due
  from gone g;
  v_ended := v_due.ended;
  v_waiting := v_due.waiting;
  v_retried := v_due.ids;
  v_retried_attempts := v_due.attempts;
  v_full := v_full or v_due.found = p_limit;

  with gone as (
    delete from ready where ctid = any (array(
      select w.ctid from ready w where w.online and w.expires_at <= now() and w.expires_at >= p_since
      order by w.expires_at limit p_limit for update skip locked))
    returning *
  )
  select count(*) as found, array_agg((g.id, now(), null, 'expired', g.attempt, 408, null, null, null, null)::result) as ended into v_due from gone g;
  v_ended := v_ended || v_due.ended;
  v_full := v_full or v_due.found = p_limit;

  with gone as (
    delete from ready where ctid = any (array(
      select w.ctid from ready w where w.ages_at is not null and w.ages_at <= now() and w.ages_at >= p_since
      order by w.ages_at limit p_limit for update skip locked))
    returning *
  )
  select count(*) as found,
         array_agg((g.id, g.expires_at, g.lane_id, g.attempt, greatest(0, g.rank - s.steps), null,
                    g.ages_at + make_interval(secs => s.steps * q.aging_seconds))::ready) as moved
    into v_due
  from gone g
  cross join lateral (select * from lane l where l.lane_id = g.lane_id limit 1) l
  cross join lateral (select * from queue q where q.queue_id = l.queue_id limit 1) q
  -- A sweep may come late, by as long as no server ran.
  cross join lateral (select coalesce(1 + floor(extract(epoch from now() - g.ages_at) / nullif(q.aging_seconds, 0)), 0) as steps) s;
  v_moved := v_due.moved;
  v_full := v_full or v_due.found = p_limit;

  if not v_full then
    outcome := 'swept';
    swept_at := now();
    return next;
  end if;
  return query select t.*, null::timestamptz from take_back(v_gone, 'lapsed') t;
  if v_ended is null and v_waiting is null and v_moved is null then
    return;
  end if;
  if recording() and v_retried is not null then
    perform record_events('retried', 'waiting', v_retried, v_retried_attempts);
  end if;
  return query
  select w.outcome, w.id, null, w.lane, null::response_mode, null::int, null::boolean, null::boolean, w.rank, null::timestamptz
  from (select 'waiting' as outcome, m.* from make_ready(v_waiting) m
        union all select 'moved', m.* from make_ready(v_moved) m) w;
  return query
  select 'expired', e.id, e.task_id, e.lane, e.mode, e.instance_id, e.has_callback, e.limited, null::smallint, null::timestamptz from end_tasks(v_ended) e;
end
$$;
