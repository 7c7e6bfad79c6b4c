create or replace function tasklane.explain_task(p_id bigint)
returns table (status text, ahead int, eta_seconds float8, reason text, rule text)
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Why a task is where it is: select * from tasklane.explain_task('TASK-…');
-- rule is a word: no_worker, worker_lost, upstream_failing, upstream_refusing, paused, limit, behind, deferred, running, ended; reason says it in a
-- sentence. Of a waiting task, ahead is how many of its lane go before it, counted up to 10,000; eta_seconds: when it may be taken, by the rate of
-- the last half minute, null while that is not known. No row for an unknown task.
#variable_conflict use_column
declare
  c_most constant int := 10000;
  v_task record;
  v_last record;
  v_batch text;                                         -- where it waits in its batch, not in ready
  v_paused boolean;
  v_rank smallint;
begin
  select t.id, t.lane_id, t.batch_id, l.level, q.queue_id, q.queue, q.queue || ':' || l.level as lane into v_task
  from task t cross join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l
  cross join lateral (select * from queue q where q.queue_id = l.queue_id limit 1) q where t.id = p_id;
  if not found then
    return;
  end if;
  status := task_state(p_id);
  -- how its last attempt ended, or the refusals in a row
  select h.* into v_last from task t join task_attempt h on h.id = t.id
  where t.id = p_id and (t.replayed_at is null or h.ended_at > t.replayed_at) order by h.ended_at desc, h.attempt desc limit 1;

  if status = 'running' then
    select e.reason, e.rule into reason, rule from explain_running(p_id) e;
  elsif status = 'deferred' then
    select case when v_last.refusals is not null then 'upstream_refusing' else 'deferred' end,
           case when v_last.id is null then format('it is to run at %s, ', print_clock(d.run_at))
                when v_last.refusals is not null then format('refused %s since %s: %s; tried again ',
                  case v_last.refusals when 1 then 'once' else v_last.refusals || ' times' end, print_clock(v_last.taken_at), v_last.reason)
                else format('attempt %s ended: %s; tried again ', v_last.attempt, v_last.reason) end
           || case when d.run_at > now() then 'in ' || print_span(d.run_at - now()) else 'at once' end
      into rule, reason
    from deferred d where d.id = p_id;
  elsif status = 'waiting' then
    select w.rank into v_rank from lane_ranks(v_task.lane_id) k(rank)
    cross join lateral (select w.rank from ready w where w.lane_id = v_task.lane_id and w.rank = k.rank and w.id = p_id limit 1) w;
    if v_rank is not null then
      select count(*) into ahead from (
        select from ready w where w.lane_id = v_task.lane_id and (w.rank, w.id) < (v_rank, p_id)
        order by w.lane_id, w.rank, w.id limit c_most + 1
      ) w;
    elsif v_task.batch_id is not null then
      select b.paused, print_batch_id(b.batch_id) into v_paused, v_batch from batch b where b.batch_id = v_task.batch_id;
    end if;
    select c.rule, c.reason into rule, reason from lane_causes(array[v_task.lane_id]) c;
    if v_paused then
      rule := 'paused';
      reason := format('its batch %s is paused', v_batch);
    elsif rule is null then
      rule := 'behind';
      reason := case
        when v_rank is null then 'it waits for its turn' || coalesce(' in its batch ' || v_batch, '')
        when ahead > c_most then format('it is behind more than %s others in %s', c_most, v_task.lane)
        when ahead > 0 then format('it is behind %s %s in %s', ahead, case ahead when 1 then 'other' else 'others' end, v_task.lane)
        when exists (select from lane l cross join lateral (select from ready w where w.lane_id = l.lane_id limit 1) w
                     where l.queue_id = v_task.queue_id and l.level < v_task.level)
          then format('it is next in %s, after what waits in lower levels of queue %s', v_task.lane, v_task.queue)
        else format('it is next in %s, whose workers are busy', v_task.lane) end;
      eta_seconds := case when ahead <= c_most then round(((ahead + 1) / nullif(lane_rate(v_task.lane_id), 0))::numeric, 1) end;
    end if;
    ahead := least(ahead, c_most);
  else
    rule := 'ended';
    reason := explain_ending(p_id, status, v_last.reason);
  end if;
  return next;
end
$$;

create or replace function tasklane.explain_running(p_id bigint) returns table (reason text, rule text)
language sql stable set search_path = tasklane as $$
  -- Who runs a task, since when, and whether anything comes of that.
  select case r.rule
           when 'worker_lost' then format('its worker %s %s; its lease ends in %s', r.name,
             case when r.stopped then 'has stopped' else 'has not been seen for ' || print_span(now() - r.last_seen) end, print_span(r.lease_until - now()))
           when 'running' then format('%s has it since %s, for %s%s', coalesce('worker ' || r.name, 'a worker that did not say who it is'),
             print_clock(r.taken_at), print_span(now() - r.taken_at), r.again)
           else format('worker %s has it since %s%s, and its upstream %s %s', r.name, print_clock(r.taken_at), r.again, r.url, r.words) end,
         r.rule
  from (
    select u.taken_at, u.lease_until, coalesce(worker_name(w), u.worker) as name, w.last_seen, w.stopped_at is not null as stopped, b.url, b.words,
           case when u.attempt > 1 then format(' (attempt %s)', u.attempt) else '' end as again,
           case when w.stopped_at is not null or w.last_seen < now() - interval '20 seconds' then 'worker_lost' else coalesce(b.rule, 'running') end as rule
    from running u
    left join worker w on w.worker = u.worker
    left join lateral (select q.queue from queue q where q.queue_id = u.queue_id limit 1) q on true
    left join lateral bad_upstream(w, q.queue) b on true
    where u.id = p_id
  ) r
$$;

create or replace function tasklane.explain_ending(p_id bigint, p_status text, p_last text) returns text
language sql stable set search_path = tasklane as $$
  -- How a task ended and why; p_last: how its last attempt before ended.
  select case p_status
    when 'dead' then format('no attempts are left after %s%s', r.attempt, ': ' || p_last)
    when 'expired' then format('its deadline passed before it was answered%s', '; its last attempt ended: ' || p_last)
    when 'cancelled' then 'it was cancelled' || case when r.taken_at is null then ' before it was taken' else ' while it ran' end
    else format('%s answered %s at attempt %s, after %s', coalesce('worker ' || coalesce(worker_name(w), r.worker), 'a worker that did not say who it is'),
                r.status_code, r.attempt, print_span(r.completed_at - r.taken_at)) end
  from (select) one
  left join result r on r.id = p_id
  left join worker w on w.worker = r.worker
$$;

create or replace function tasklane.lane_rate(p_lane_id int) returns float8
language sql stable set search_path = tasklane as $$
  -- How many tasks of a lane ended a second in the last half minute, by a sample of all that ended; null when none did.
  select nullif(count(*) filter (where t.lane_id = p_lane_id), 0)
         / case when count(*) < 500 then 30 else greatest(0.001, extract(epoch from max(s.completed_at) - min(s.completed_at))) end
  from (select r.id, r.completed_at from result r where r.completed_at > now() - interval '30 seconds' limit 500) s
  cross join lateral (select t.lane_id from task t where t.id = s.id limit 1) t
$$;
