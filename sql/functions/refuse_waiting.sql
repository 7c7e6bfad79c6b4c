create or replace function tasklane.refuse_waiting(p_limit int default 1000)
returns table (id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean,
               status_code int, body text)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Ends live tasks whose clients wait, and that nobody takes since all model servers of their queue are out: up to p_limit that have waited for its
-- live_refusal_seconds since their put and since the last of these servers went out. They are dead with what that server said last.
-- A queue is judged by the workers of its lane at level 0 that were seen within 45 s and do not drain. It is left alone while one of them says
-- nothing of its upstreams, or has a healthy one that serves the queue, and while it is paused.
-- Returns  what end_tasks does, and the answer of each.
-- Touches  worker, lane, queue, task (read), ready (delete) and what end_tasks does.
#variable_conflict use_column
declare
  v_lanes int[];
  v_out_since timestamptz[];
  v_patience interval[];
  v_status_codes int[];
  v_bodies text[];
  v_ended result[];
begin
  with seats as materialized (
    select split_part(l.lane, ':', 1) as queue, w.upstreams
    from worker w cross join lateral unnest(w.lanes) l(lane)
    where w.last_seen > now() - interval '45 seconds' and not w.draining and (w.stopped_at is null or w.stopped_at < w.last_seen)
      and l.lane ~ ':0?0$'
  ), servers as materialized (
    select s.queue, coalesce(u.upstream ->> 'state', 'unknown') as state, (u.upstream ->> 'status')::int as status, u.upstream ->> 'message' as message,
           least(to_timestamp((u.upstream ->> 'since')::float8 / 1000), now()) as since
    from seats s
    -- a worker that names none for this queue has one row, of an unknown state
    left join lateral (
      select e as upstream from json_array_elements(s.upstreams) e
      where coalesce(json_typeof(e -> 'queues'), 'null') = 'null' or s.queue in (select q from json_array_elements_text(e -> 'queues') q)
    ) u on true
  ), out as materialized (
    select distinct on (v.queue) v.*
    from (select s.*, bool_and(s.state in ('refusing', 'failing', 'away')) over (partition by s.queue) as all_out from servers s) v
    where v.all_out order by v.queue, v.since desc
  )
  select array_agg(l.lane_id), array_agg(o.since), array_agg(make_interval(secs => q.live_refusal_seconds)),
         array_agg(case when o.state <> 'away' and o.status between 400 and 599 then o.status else 502 end),
         array_agg(json_build_object('error', json_build_object(
           'message', coalesce(o.message, case o.state when 'away' then 'there is no connection to the model server' else 'the model server answers no request' end),
           'type', 'upstream_error', 'param', null, 'code', case o.state when 'failing' then 'upstream_broken' else 'upstream_refused' end))::text)
    into v_lanes, v_out_since, v_patience, v_status_codes, v_bodies
  from out o
  cross join lateral (select * from queue q where q.queue = o.queue and q.deleted_at is null and not q.paused limit 1) q
  cross join lateral (select * from lane l where l.queue_id = q.queue_id and l.level = 0 limit 1) l;
  if v_lanes is null then
    return;
  end if;

  -- By the index of deadlines: those of live tasks are near, and of the others that wait there may be any number.
  with gone as (
    delete from ready where ctid = any (array(
      select w.ctid
      from ready w
      cross join lateral (select array_position(v_lanes, w.lane_id) as nth offset 0) n
      cross join lateral (select t.mode, t.created_at from task t where t.id = w.id limit 1) t
      where w.online and w.expires_at > now() and w.expires_at <= now() + interval '600 seconds' and w.lane_id = any (v_lanes)
        and t.mode in ('blocking', 'streaming') and greatest(t.created_at, v_out_since[n.nth]) + v_patience[n.nth] <= now()
      order by w.expires_at limit p_limit for update of w skip locked))
    returning *
  )
  select array_agg((g.id, now(), null, 'dead', g.attempt, v_status_codes[n.nth], null, null, v_bodies[n.nth]::json, null)::result) into v_ended
  from gone g cross join lateral (select array_position(v_lanes, g.lane_id) as nth) n;

  return query
  select e.id, e.task_id, e.lane, e.mode, e.instance_id, e.has_callback, e.limited, (v_ended[e.nth]).status_code::int, (v_ended[e.nth]).body::text
  from end_tasks(v_ended) e;
end
$$;
