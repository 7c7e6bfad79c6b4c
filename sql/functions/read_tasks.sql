create or replace function tasklane.list_tasks(
  p_tenant_id int default null, p_queue text default null, p_level int default null, p_status text default null,
  p_after bigint default null, p_limit int default 20, p_ascending boolean default false
) returns setof bigint
language plpgsql stable set search_path = tasklane set enable_seqscan = off as $$
-- Ids of tasks, newest first (or oldest), after an id, filtered by tenant, queue, level and status.
-- Waiting, deferred and running tasks are sought among the live ones only; ended ones by walking back through time.
-- Raises   TL404 for an unknown queue.
#variable_conflict use_column
declare
  v_lanes int[] := case when p_queue is not null or p_level is not null then array(
    select l.lane_id from lane l
    where (p_queue is null or l.queue_id = queue_of(p_queue)) and (p_level is null or l.level = p_level)) end;
  v_from text := case p_status when 'waiting' then 'ready' when 'running' then 'running' when 'deferred' then 'deferred' else 'task' end;
begin
  perform queue_of(p_queue) where p_queue is not null;
  return query execute format($q$
    select t.id from %s s join task t on t.id = s.id
    where ($1 is null or t.tenant_id = $1) and ($2 is null or t.lane_id = any($2)) and ($3 is null or s.id %s $3) and %s
    order by s.id %s limit $4$q$,
    case when v_from = 'task' and p_status is not null then 'result' else v_from end,
    case when p_ascending then '>' else '<' end,
    case when p_status is null then 'true' when v_from = 'task' then format('s.outcome = %L', p_status) else 's.expires_at > now()' end,
    case when p_ascending then 'asc' else 'desc' end)
  using p_tenant_id, v_lanes, p_after, p_limit;
end
$$;

create or replace function tasklane.read_endings(p_ids bigint[])
returns table (id bigint, outcome tasklane.outcome, status_code smallint, body text, envelope text)
language sql stable set search_path = tasklane set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
  -- How tasks ended, for those who wait for them; tasks that have not are absent.
  select r.id, r.outcome, r.status_code, r.body::text, result_envelope(r, print_task_id(t.id, l.queue_id, l.level, t.mode))::text
  from unnest(p_ids) i(id) join result r on r.id = i.id join task t on t.id = i.id join lane l on l.lane_id = t.lane_id
$$;
