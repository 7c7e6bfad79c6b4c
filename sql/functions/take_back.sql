create or replace function tasklane.announce_gone(p_ids bigint[], p_attempts int[], p_workers text[]) returns void
language sql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
  -- Tells every server of attempts that somebody else than their worker has ended, since a heartbeat of that worker may wait there. One element of each
  -- array an attempt. A server looks the attempt up before it believes this.
  select notify_servers(json_build_object('gone', json_agg(s.entry order by s.ord)))
  from (
    select e.entry, e.ord, sum(octet_length(e.entry::text)) over (order by e.ord) as bytes
    from (select json_build_array(i.worker, print_task_id(t.id, l.queue_id, l.level, t.mode), i.attempt) as entry, i.ord
          from unnest(p_ids, p_attempts, p_workers) with ordinality as i(id, attempt, worker, ord)
          cross join lateral (select * from task t where t.id = i.id limit 1) t
          cross join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l) e
  ) s
  -- NOTIFY carries less than 8,000 bytes, and a worker's name takes up to 1,200.
  group by s.bytes / 5000
$$;

create or replace function tasklane.take_back(p_gone tasklane.running[], p_reason text)
returns table (outcome text, id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean,
               limited boolean, rank smallint)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- What becomes of tasks whose workers are no more, or said nothing for too long: those with attempts left wait again at once, the others are dead, and
-- what is past its deadline has expired. The attempt counts; p_reason is why it ended.
-- The caller has just deleted the tasks' rows, p_gone, from running.
-- Returns  waiting (at lane and rank: lower the heads, wake who waits), dead and expired as end_tasks does, freed (of its lane something stopped running).
-- Touches  ready, task_attempt (insert), task, lane, queue (read) and what end_tasks does.
#variable_conflict use_column
declare
  v_ended result[];
  v_waiting ready[];
begin
  if p_gone is null then
    return;
  end if;
  with judged as materialized (
    select g.*, case when g.expires_at <= now() then 'expired'
                     when g.attempt >= coalesce(g.max_attempts, t.max_attempts, q.max_attempts) then 'dead' end::outcome as outcome
    from unnest(p_gone) g
    cross join lateral (select * from task t where t.id = g.id limit 1) t
    cross join lateral (select * from queue q where q.queue_id = g.queue_id limit 1) q
  ), history as (
    insert into task_attempt (id, attempt, taken_at, ended_at, worker, reason)
    select j.id, j.attempt, j.taken_at, now(), j.worker, p_reason from judged j where j.outcome is distinct from 'expired'
  )
  select array_agg((j.id, now(), j.taken_at, j.outcome, j.attempt, case j.outcome when 'dead' then 502 else 408 end, null, j.worker, null, null)::result)
           filter (where j.outcome is not null),
         array_agg((j.id, j.expires_at, j.lane_id, j.attempt, j.rank, null, null)::ready) filter (where j.outcome is null)
    into v_ended, v_waiting
  from judged j;
  perform announce_gone(array_agg(g.id), array_agg(g.attempt), array_agg(g.worker)) from unnest(p_gone) g;
  if recording() and v_waiting is not null then
    perform record_events('retried', 'waiting', array_agg(w.id), array_agg(w.attempt), array_agg(format('{"reason":%s}', to_json(p_reason))))
    from unnest(v_waiting) w;
  end if;

  return query
  select 'waiting', w.id, null, w.lane, null::response_mode, null::int, null::boolean, null::boolean, w.rank from make_ready(v_waiting) w;
  return query
  select v_ended[e.nth].outcome::text, e.id, e.task_id, e.lane, e.mode, e.instance_id, e.has_callback, e.limited, null::smallint from end_tasks(v_ended) e;
  return query
  select 'freed', null::bigint, null::text, q.queue || ':' || l.level, null::response_mode, null::int, null::boolean, q.max_running is not null, null::smallint
  from (select distinct g.lane_id from unnest(p_gone) g) f
  cross join lateral (select * from lane l where l.lane_id = f.lane_id limit 1) l
  cross join lateral (select * from queue q where q.queue_id = l.queue_id limit 1) q;
end
$$;

create or replace function tasklane.end_predecessors(p_workers text[])
returns table (outcome text, id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean,
               limited boolean, rank smallint)
language plpgsql set search_path = tasklane as $$
-- Some workers are new: who worked under the same name on the same host before has died, or would still have the name. It is stopped, and what it
-- had is taken back. A worker without a name or a host has no predecessor. Only older ones are ended, and by one that was first seen within the last
-- minute, so this may be called twice, or late.
-- Returns  as take_back does.
-- Touches  worker (update), running (delete) and what take_back does.
#variable_conflict use_column
declare
  v_over text[];
  v_ids bigint[];
  v_gone running[];
begin
  with old as (
    select o.worker from worker o
    where o.stopped_at is null and exists (
      select from worker n where n.worker = any (p_workers) and n.name <> '' and n.host <> ''
        and n.name = o.name and n.host = o.host and n.first_seen > o.first_seen
        and n.first_seen > now() - interval '1 minute')
    -- In the order of names, as see_workers locks.
    order by o.worker for update
  ), over as (
    update worker w set stopped_at = now() from old o where w.worker = o.worker and w.stopped_at is null returning w.worker
  )
  select array_agg(o.worker) into v_over from over o;
  if v_over is null then
    return;
  end if;

  -- In the order of ids, as complete_tasks locks. A walk over all that runs: an index by worker would cost every take.
  select array_agg(k.id) into v_ids from (select r.id from running r where r.worker = any (v_over) order by r.id for update) k;
  -- A statement of its own, for the reason that complete_tasks has.
  with gone as (
    delete from running where id = any (v_ids) returning *
  )
  select array_agg(g::running) into v_gone from gone g;
  return query select * from take_back(v_gone, 'worker restarted');
end
$$;
