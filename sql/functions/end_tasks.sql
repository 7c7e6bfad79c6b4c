create or replace function tasklane.end_tasks(p_results tasklane.result[])
returns table (nth int, id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set join_collapse_limit = 1 set jit = off
set plan_cache_mode = force_generic_plan as $$
-- What must follow every end of a task, whoever ended it: its result, the lane's count, the callback's outbox row, its place among those that
-- its queue keeps where it keeps only so many, its batch's count.
-- The caller has just deleted the task's row from ready, running or deferred, and so owns its end.
-- Returns  what is needed to tell those who wait; nth is the index into p_results; limited: takes from its queue stop at its
--          max_running, so there is room for one more.
-- Touches  result, lane_tally, callback_delivery, kept, batch_tally, event_stage (insert), task, lane, queue, batch (read).
#variable_conflict use_column
declare
  v_recording boolean := recording();
  v_first bigint;
  v_last bigint;
begin
  select min((p_results[n]).id), max((p_results[n]).id) into v_first, v_last from generate_subscripts(p_results, 1) n;
  return query
  with ended as materialized (
    select r.nth, t.id, t.lane_id, case when t.batch_id is null then t.tenant_id end as tenant_id, t.batch_id, t.mode, t.instance_id, t.callback_url, r.completed_at, r.outcome, r.attempt,
           r.status_code, l.level, q.queue_id, q.queue, q.max_completed_tasks, q.max_running
    from (
      -- by place: unnested, large bodies were copied, as in complete_tasks
      select n as nth, (p_results[n]).id, (p_results[n]).completed_at, (p_results[n]).outcome, (p_results[n]).attempt, (p_results[n]).status_code
      from generate_subscripts(p_results, 1) n
    ) r
    cross join lateral (select * from task t where t.id = r.id and t.id between v_first and v_last limit 1) t
    -- join_collapse_limit and enable_material: as written, by look-ups. Planned while there are few queues, it would go through all of them; a lateral with a
    -- limit for each would do as well, and cost this and take_tasks 4 % more.
    join lane l on l.lane_id = t.lane_id join queue q on q.queue_id = l.queue_id
  ), results as (
    insert into result select (p_results[n]).* from generate_subscripts(p_results, 1) n
  ), tally as (
    insert into lane_tally (lane_id, tenant_id, put_count, ended_count)
    select e.lane_id, e.tenant_id, 0, count(*) from ended e group by e.lane_id, e.tenant_id
  ), callbacks as (
    insert into callback_delivery (task_id, tenant_id, url)
    select e.id, e.tenant_id, e.callback_url from ended e where e.callback_url is not null
  ), keep as (
    insert into kept (queue_id, completed_at, id) select e.queue_id, e.completed_at, e.id from ended e where e.max_completed_tasks is not null
  ), lines as (
    -- What ends with its batch does not count as failed.
    insert into batch_tally (batch_id, completed, failed, unanswered, ids)
    select b.batch_id, b.completed, b.ended - b.completed - b.unanswered, b.unanswered, b.ids
    from (
      select e.batch_id, count(*) as ended, count(*) filter (where e.outcome = 'succeeded') as completed,
             count(*) filter (where e.outcome in ('cancelled', 'expired') and (a.status <> 'in_progress' or a.expires_at <= now())) as unanswered,
             array_agg(e.id order by e.nth) as ids
      from ended e cross join lateral (select * from batch a where a.batch_id = e.batch_id limit 1) a
      where e.batch_id is not null group by e.batch_id
    ) b
  ), events as (
    insert into event_stage (id, attempt, type, status, data)
    select e.id, e.attempt, case e.outcome when 'succeeded' then 'completed' else e.outcome::text end::event_type, e.outcome,
           json_build_object('status_code', e.status_code)
    from ended e where v_recording order by e.nth
  )
  select e.nth, e.id, print_task_id(e.id, e.queue_id, e.level, e.mode), e.queue || ':' || e.level, e.mode, e.instance_id, e.callback_url is not null, e.max_running is not null
  from ended e;
end
$$;

create or replace function tasklane.result_envelope(p_result tasklane.result, p_task_id text) returns json
language sql stable as $$
  -- What a client is told of an ended task: {status_code, request_id, body}, or error in place of body where there is no
  -- answer. The body is the worker's text, to the letter.
  select format('{"status_code":%s,"request_id":%s,%s}', p_result.status_code,
    to_json(coalesce(p_result.request_id, p_task_id)),
    case when p_result.body is not null then '"body":' || p_result.body
         else format('"error":{"code":%s,"message":%s,"type":%s}', p_result.status_code,
           to_json(case p_result.outcome when 'dead' then 'no attempts are left' when 'expired' then 'the deadline has passed'
                                         else 'the task was cancelled' end), to_json(p_result.outcome)) end)::json
$$;
