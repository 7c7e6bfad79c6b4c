-- For a person in psql: one task at a time, by printed id, with the same functions underneath as the server's.

create or replace function tasklane.notify_servers(p_message json) returns void
language sql as $$
  -- Tells every server: {"wake": [["queue:level", rank, "id", how many], …]}, {"ended": ["id", …]}, {"events": ["id", …]}. A hint only; the tables are the truth.
  select pg_notify('tasklane', p_message::text)
$$;

create or replace function tasklane.existing_id(task_id text) returns bigint
language plpgsql stable set search_path = tasklane as $$
-- The number of a task. Raises TL404 when there is no such task.
declare
  v_id bigint := parse_task_id(task_id);
begin
  if v_id is null or not exists (select from task t where t.id = v_id) then
    raise exception using errcode = 'TL404', message = format('unknown task %s', to_json(task_id));
  end if;
  return v_id;
end
$$;

create or replace function tasklane.put(
  queue text, data json, level int default 0, priority int default 5, endpoint text default null, response_mode text default 'callback',
  callback_url text default null, timeout int default 86400, trace_id text default null, tenant text default 'default'
) returns text
language plpgsql set search_path = tasklane as $$
-- Puts one task: select tasklane.put('deepseek-r1', '{"messages": []}', level => 1, priority => 10);
-- queue may be null: then (endpoint, data.model) finds it. timeout is in seconds.
-- Returns  the printed task id. Raises TL404 for an unknown queue, TL400 for a refused value.
#variable_conflict use_column
declare
  v_put record;
begin
  if put.level not between 0 and 99 or put.priority not between 0 and 100 or put.timeout not between 1 and 2592000
     or put.data is null or put.response_mode not in ('callback', 'blocking', 'streaming') then
    raise exception using errcode = 'TL400',
      message = 'level is 0-99, priority 0-100, timeout 1-2592000 s, data not null, response_mode callback, blocking or streaming';
  end if;
  select p.* into v_put from put_tasks(array[1], array[(select t.tenant_id from tenant t where t.tenant = put.tenant)], array[null::int],
    array[put.queue], array[put.endpoint], array[put.level], array[put.response_mode], array[put.priority], array[put.timeout],
    array[put.callback_url], array[put.trace_id], array[put.data::text]) p;
  if v_put.code is not null then
    raise exception using errcode = v_put.code, message = v_put.message;
  end if;
  perform notify_servers(json_build_object('wake', json_build_array(json_build_array(v_put.lane, v_put.rank, v_put.id::text, 1))));
  return v_put.task_id;
end
$$;

create or replace function tasklane.take(lane text[], size int default 1, strategy text default 'fifo', worker text default 'psql')
returns table (task_id text, attempt int, queue text, level smallint, endpoint text, response_mode tasklane.response_mode, data json)
language plpgsql set search_path = tasklane as $$
-- Takes tasks from lanes: select * from tasklane.take('deepseek-r1:1', size => 10); or take(array['a:0', 'b:0'], strategy => 'round_robin').
-- Strategies: fifo, round_robin, active_passive, sequential.
-- Raises   TL404 for an unknown queue, TL400 for a refused value.
#variable_conflict use_column
begin
  if size not between 1 and 1000 then
    raise exception using errcode = 'TL400', message = 'size is 1-1000';
  end if;
  return query
  with taken as materialized (
    select * from take_tasks(take.lane, array[take.size], take.strategy, null, null, p_workers => array[take.worker])
  ), back as materialized (
    select b.* from (select array_agg(t.id) as ids, array_agg(t.attempt) as attempts from taken t where t.data is null) o
    cross join lateral return_tasks(o.ids, o.attempts) b
  )
  select t.task_id, t.attempt, t.queue, t.level, t.endpoint, t.mode, t.data::json
  from taken t where t.data is not null and not exists (select from back b where b.id = t.id);
end
$$;

create or replace function tasklane.take(lane text, size int default 1, strategy text default 'fifo', worker text default 'psql')
returns table (task_id text, attempt int, queue text, level smallint, endpoint text, response_mode tasklane.response_mode, data json)
language sql as $$
  -- Takes tasks from one lane: select * from tasklane.take('deepseek-r1:1');
  select * from tasklane.take(array[lane], size, strategy, worker)
$$;

create or replace function tasklane.complete(task_id text, status_code int, body json, request_id text default null, attempt int default null)
returns text
language plpgsql set search_path = tasklane as $$
-- Answers a task that was taken: select tasklane.complete('TASK-…', 200, '{"ok": true}');
-- The client that waits, on whichever server, and the callback get the answer.
-- Returns  the task id. Raises TL404 for an unknown task, TL409 when it does not run (any more).
#variable_conflict use_column
declare
  v_done record;
begin
  if complete.status_code not between 200 and 599 or complete.body is null or complete.status_code is null then
    raise exception using errcode = 'TL400', message = 'status_code is 200-599, body not null';
  end if;
  select c.* into v_done from complete_tasks(array[existing_id(complete.task_id)], array[complete.attempt], array[complete.status_code],
    array[complete.request_id], array[complete.body::text]) c;
  if v_done.verdict = 'completed' then
    perform notify_servers(json_build_object('ended', json_build_array(v_done.id::text)));
  elsif v_done.verdict <> 'repeated' then
    raise exception using errcode = 'TL409', message = format('task %s is %s', complete.task_id, v_done.verdict);
  end if;
  return complete.task_id;
end
$$;

create or replace function tasklane.cancel(task_id text) returns text
language plpgsql set search_path = tasklane as $$
-- Withdraws a task that has not ended: select tasklane.cancel('TASK-…');
-- Returns  the task id. Raises TL404 for an unknown task, TL409 when it has ended.
#variable_conflict use_column
declare
  v_done record;
begin
  select c.* into v_done from cancel_tasks(array[existing_id(cancel.task_id)]) c;
  if v_done.refusal is not null then
    raise exception using errcode = 'TL409', message = format('task %s is %s', cancel.task_id, v_done.refusal);
  end if;
  perform notify_servers(json_build_object('ended', json_build_array(v_done.id::text)));
  return cancel.task_id;
end
$$;

create or replace function tasklane.emit_event(task_id text, event_name text, event_data json default null, event_id text default null,
                                               attempt int default null) returns int
language plpgsql set search_path = tasklane as $$
-- Reports progress of a running task: select tasklane.emit_event('TASK-…', 'chunk', '{"delta": "Hello"}');
-- Returns  the event's number within the task. Raises TL404 for an unknown task, TL409 when it does not run, TL400 for the
--          names completion and error, which a stream keeps for its end, and for a name or id of more than one line.
#variable_conflict use_column
declare
  v_done record;
begin
  if emit_event.event_name in ('completion', 'error') or coalesce(emit_event.event_name, '') = '' then
    raise exception using errcode = 'TL400', message = 'event_name is missing, or one of completion and error, which are reserved';
  end if;
  if concat(emit_event.event_name, emit_event.event_id) ~ '[\r\n]' then
    raise exception using errcode = 'TL400', message = 'event_name and event_id must be one line: a stream writes them as lines';
  end if;
  select e.* into v_done from emit_events(array[existing_id(emit_event.task_id)], array[emit_event.attempt], array[emit_event.event_id],
    array[emit_event.event_name], array[emit_event.event_data::text]) e;
  if v_done.verdict <> 'stored' then
    raise exception using errcode = 'TL409', message = format('task %s is %s', emit_event.task_id, v_done.verdict);
  end if;
  perform notify_servers(json_build_object('events', json_build_array(v_done.id::text)));
  return v_done.seq;
end
$$;
