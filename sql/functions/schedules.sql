create or replace function tasklane.check_route(p_queue text, p_endpoint text, p_model text) returns void
language plpgsql stable set search_path = tasklane as $$
-- Raises what find_route has against a task.
declare
  v_route record;
begin
  select f.* into v_route from find_route(p_queue, p_endpoint, p_model) f;
  if v_route.code is not null then
    raise exception using errcode = v_route.code, message = v_route.message;
  end if;
end
$$;

create or replace function tasklane.make_schedule(
  p_tenant_id int, p_key_id int, p_name text, p_cron text, p_timezone text, p_task json, p_enabled boolean, p_missed text,
  p_next_run timestamptz, p_queue text, p_endpoint text, p_model text
) returns int
language plpgsql set search_path = tasklane as $$
-- Makes a schedule whose first tick is p_next_run; when a cron expression is due is for the caller to find out. p_queue,
-- p_endpoint and p_model say where p_task goes, as in put_tasks.
-- Returns  its number. Raises TL409 when the tenant has one of that name, and what find_route has against the task.
-- Touches  schedule (insert).
declare
  v_schedule_id int;
begin
  perform check_route(p_queue, p_endpoint, p_model);
  insert into schedule (tenant_id, key_id, name, cron, timezone, task, enabled, missed, next_run)
  values (p_tenant_id, p_key_id, p_name, p_cron, p_timezone, p_task, p_enabled, p_missed, p_next_run)
  on conflict (tenant_id, name) do nothing
  returning schedule_id into v_schedule_id;
  if v_schedule_id is null then
    raise exception using errcode = 'TL409', message = format('there is a schedule %s already', to_json(p_name));
  end if;
  return v_schedule_id;
end
$$;

create or replace function tasklane.set_schedule(
  p_schedule_id int, p_version xid, p_name text, p_cron text, p_timezone text, p_task json, p_enabled boolean, p_missed text,
  p_next_run timestamptz, p_queue text, p_endpoint text, p_model text
) returns boolean
language plpgsql set search_path = tasklane as $$
-- Changes a schedule to what is given, if it still is what the caller read: p_version is the row's xmin, which every change renews.
-- Where p_endpoint is null the task is the one it was, and its route is not looked at.
-- Returns  whether it was. Raises TL409 when the tenant has another one of that name, and what find_route has against the task.
-- Touches  schedule (update).
begin
  if p_endpoint is not null then
    perform check_route(p_queue, p_endpoint, p_model);
  end if;
  update schedule s set name = p_name, cron = p_cron, timezone = p_timezone, task = p_task, enabled = p_enabled, missed = p_missed,
                        next_run = p_next_run
  where s.schedule_id = p_schedule_id and s.xmin = p_version;
  return found;
exception when unique_violation then
  raise exception using errcode = 'TL409', message = format('there is a schedule %s already', to_json(p_name));
end
$$;

create or replace function tasklane.due_schedules(p_limit int)
returns table (schedule_id int, tenant_id int, key_id int, cron text, timezone text, task text, missed text, next_run timestamptz,
               version text, now timestamptz)
language sql stable set search_path = tasklane as $$
  -- Schedules whose tick has come, the most overdue first, up to p_limit or 32 MiB of tasks. version is what fire_schedule and
  -- pass_schedule ask for; now is the clock by which they are due.
  with due as (
    select s.*, s.xmin as version from schedule s where s.enabled and s.next_run <= now() order by s.next_run limit p_limit
  ), sized as (
    select d.*, row_number() over w as nth, sum(octet_length(d.task::text)) over w as bytes
    from due d window w as (order by d.next_run, d.schedule_id)
  )
  select z.schedule_id, z.tenant_id, z.key_id, z.cron, z.timezone, z.task::text, z.missed, z.next_run, z.version::text, now()
  from sized z where z.nth = 1 or z.bytes <= 32 * 1024 * 1024 order by z.nth
$$;

create or replace function tasklane.fire_schedule(
  p_schedule_id int, p_version xid, p_next timestamptz,
  p_groups int[], p_tenant_ids int[], p_key_ids int[], p_queues text[], p_endpoints text[], p_levels int[],
  p_modes text[], p_priorities int[], p_timeouts int[], p_callback_urls text[], p_trace_ids text[],
  p_data text[], p_instance_id int default null, p_models text[] default null, p_options text[] default null
) returns table (ord int, id bigint, task_id text, lane text, rank smallint, state text, code text, message text, retry_after int)
language plpgsql set search_path = tasklane as $$
-- Puts a schedule's task and goes on to its next tick (null: none), in one transaction, if the schedule still is what due_schedules gave
-- (p_version): of all who try a tick, one puts its task. What follows p_next are put_tasks' arguments, for one task.
-- Returns  put_tasks' row, a refusal too, which is kept in last_error and takes up the tick; no row when somebody else came first.
-- Touches  schedule (update) and what put_tasks does.
#variable_conflict use_column
begin
  perform from schedule s where s.schedule_id = p_schedule_id and s.xmin = p_version for update;
  if not found then
    return;
  end if;
  select p.ord, p.id, p.task_id, p.lane, p.rank, p.state, p.code, p.message, p.retry_after
    into ord, id, task_id, lane, rank, state, code, message, retry_after
  from put_tasks(p_groups, p_tenant_ids, p_key_ids, p_queues, p_endpoints, p_levels, p_modes, p_priorities, p_timeouts,
                 p_callback_urls, p_trace_ids, p_data, p_instance_id, p_models, p_options) p;
  if fire_schedule.code is null then
    update schedule s set last_run = s.next_run, last_task_id = fire_schedule.task_id, last_error = null, run_count = s.run_count + 1,
                          next_run = p_next
    where s.schedule_id = p_schedule_id;
  else
    update schedule s set last_error = fire_schedule.message, next_run = p_next where s.schedule_id = p_schedule_id;
  end if;
  return next;
end
$$;

create or replace function tasklane.pass_schedule(p_schedule_id int, p_version xid, p_next timestamptz, p_error text default null) returns void
language sql set search_path = tasklane as $$
  -- Goes on to a schedule's next tick (null: none) without a task, if the schedule still is what due_schedules gave (p_version). p_error:
  -- why there can't be one; without it the ticks were missed.
  -- Touches  schedule (update).
  update schedule s set next_run = p_next, last_error = coalesce(p_error, s.last_error)
  where s.schedule_id = p_schedule_id and s.xmin = p_version
$$;
