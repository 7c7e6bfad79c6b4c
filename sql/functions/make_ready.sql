create or replace function tasklane.make_ready(p_rows tasklane.ready[]) returns table (id bigint, lane text, rank smallint, limited boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Lets tasks wait: the one way back into ready. Of each row id, expires_at, lane_id, attempt, rank and ages_at (null: aging_seconds
-- from now) are read; the rest follows from the lane. The caller has just deleted the task's row from running, deferred, ready or result.
-- Returns  where each waits now: whoever calls must lower the heads of takes to there, and wake those that wait for work. limited: its queue has a max_running.
#variable_conflict use_column
begin
  return query
  with lane_row as materialized (
    select l.lane_id, l.level, q.queue, q.aging_seconds, q.max_running is not null as limited
    from (select distinct r.lane_id from unnest(p_rows) r) d
    -- Lateral with a limit can't be turned round: planned while there are few queues, a join would go through all of them.
    cross join lateral (select * from lane l where l.lane_id = d.lane_id limit 1) l
    cross join lateral (select * from queue q where q.queue_id = l.queue_id limit 1) q
  ), back as (
    insert into ready (id, expires_at, lane_id, attempt, rank, online, ages_at)
    select r.id, r.expires_at, r.lane_id, r.attempt, r.rank, l.level = 0,
           case when l.aging_seconds > 0 and r.rank > 0 then coalesce(r.ages_at, now() + make_interval(secs => l.aging_seconds)) end
    from unnest(p_rows) r join lane_row l using (lane_id)
  )
  select r.id, l.queue || ':' || l.level, r.rank, l.limited from unnest(p_rows) r join lane_row l using (lane_id);
end
$$;
