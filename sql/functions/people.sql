-- For a person in psql: one task at a time, by printed id, with the same functions underneath as the server's.

create or replace function tasklane.notify_servers(p_message json) returns void
language sql as $$
  -- Tells every server: {"wake": [["queue:level", rank, "id", how many], …]}, {"ended": ["id", …]}, {"events": ["id", …]},
  -- {"free": ["queue:level", …]}, {"room": ["queue:level", …]}, {"gone": [["worker", "TASK-…", attempt], …]}. A hint only; the tables are the truth.
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

create or replace function tasklane.announce_waiting(p_lane text, p_rank smallint, p_id bigint, p_from int default null) returns boolean
language sql as $$
  -- Tells every server but p_from that a task waits in a lane. True.
  select tasklane.notify_servers(json_strip_nulls(json_build_object(
    'from', p_from, 'wake', json_build_array(json_build_array(p_lane, p_rank, p_id::text, 1)))));
  select true
$$;

create or replace function tasklane.announce_ended(p_id bigint, p_from int default null) returns boolean
language sql as $$
  -- Tells every server but p_from that a task has ended. True.
  select tasklane.notify_servers(json_strip_nulls(json_build_object('from', p_from, 'ended', json_build_array(p_id::text))));
  select true
$$;

create or replace function tasklane.announce_answer(p_result tasklane.result, p_instance_id int, p_from int) returns boolean
language plpgsql set search_path = tasklane as $$
-- Gives the server that holds the task's client the answer, if that is small; else says to every server but p_from that the task has ended. Written
-- into a message, JSON may take twice its length, and NOTIFY carries less than 8,000 bytes. True.
declare
  v_channel text := (select i.answer_channel from instance i where i.instance_id = p_instance_id);
begin
  if v_channel is null or octet_length(p_result.body::text) > 3500 then
    return announce_ended(p_result.id, p_from);
  end if;
  perform pg_notify(v_channel, json_build_array(p_result.id::text, p_result.outcome, p_result.status_code, p_result.body::text)::text);
  return true;
end
$$;

create or replace function tasklane.announce_freed(p_lane text, p_limited boolean) returns void
language sql as $$
  -- Tells every server that a task of this lane does not run any more: the next one may, in sequence, or within max_running.
  select tasklane.notify_servers(json_build_object(case when p_limited then 'room' else 'free' end, json_build_array(p_lane)))
$$;

create or replace function tasklane.put(
  queue text, data json, level int default 0, priority int default 5, endpoint text default null, response_mode text default 'callback',
  callback_url text default null, timeout int default 86400, trace_id text default null, tenant text default 'default',
  run_at timestamptz default null, max_attempts int default null, retry json default null, metadata json default null,
  idempotency_key text default null
) returns text
language plpgsql set search_path = tasklane as $$
-- Puts one task: select tasklane.put('deepseek-r1', '{"messages": []}', level => 1, priority => 10);
-- Later: run_at => now() + interval '1 hour'. queue may be null: then (endpoint, data.model) finds it. timeout is in seconds. retry overrides
-- what of the queue's it names: '{"initial_seconds": 5}'. With an idempotency_key, the same put again within a day returns the same task.
-- Returns  the printed task id. Raises TL404 for an unknown queue, TL400 for a refused value, TL409 for a key used for another
--          put, TL429 over a limit.
#variable_conflict use_column
declare
  v_put record;
  v_options json;
begin
  if put.level not between 0 and 99 or put.priority not between 0 and 100 or put.timeout not between 1 and 2592000
     or put.data is null or put.response_mode not in ('callback', 'blocking', 'streaming') or put.max_attempts not between 1 and 100
     or length(put.idempotency_key) not between 1 and 255 then
    raise exception using errcode = 'TL400',
      message = 'level is 0-99, priority 0-100, timeout 1-2592000 s, data not null, response_mode callback, blocking or streaming, '
             || 'max_attempts 1-100, an idempotency_key has 1-255 characters';
  end if;
  if json_typeof(put.retry) <> 'object' or exists (
       select from json_each_text(case when json_typeof(put.retry) = 'object' then put.retry end) e
       where case e.key when 'jitter' then e.value not in ('true', 'false')
                        when 'factor' then e.value !~ '^[0-9]{1,3}([.][0-9]{1,9})?$' or e.value::float8 not between 1 and 100
                        when 'initial_seconds' then e.value !~ '^[0-9]{1,5}([.][0-9]{1,9})?$' when 'max_seconds' then e.value !~ '^[0-9]{1,5}([.][0-9]{1,9})?$'
                        else true end) then
    raise exception using errcode = 'TL400', message = 'retry has initial_seconds, max_seconds, factor (1 to 100) and jitter (true or false)';
  end if;
  if num_nonnulls(put.run_at, put.max_attempts, put.retry, put.metadata, put.idempotency_key) > 0 then
    v_options := json_strip_nulls(json_build_object(
      'run_at', extract(epoch from put.run_at) * 1000, 'max_attempts', put.max_attempts, 'retry', put.retry, 'metadata', put.metadata,
      'idempotency_key', put.idempotency_key,
      'body_hash', case when put.idempotency_key is not null then encode(sha256(convert_to(concat_ws(chr(31), put.queue, put.data::text, put.level,
        put.priority, put.endpoint, put.response_mode, put.callback_url, put.timeout, put.trace_id, put.run_at, put.max_attempts, put.retry::text,
        put.metadata::text), 'UTF8')), 'hex') end));
  end if;
  select p.* into v_put from put_tasks(array[1], array[(select t.tenant_id from tenant t where t.tenant = put.tenant)], array[null::int],
    array[put.queue], array[put.endpoint], array[put.level], array[put.response_mode], array[put.priority], array[put.timeout],
    array[put.callback_url], array[put.trace_id], array[put.data::text],
    p_options => case when v_options is not null then array[v_options::text] end) p;
  if v_put.code is not null then
    raise exception using errcode = v_put.code, message = v_put.message;
  end if;
  if v_put.state = 'waiting' then
    perform announce_waiting(v_put.lane, v_put.rank, v_put.id);
  end if;
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
    select b.id from (select array_agg(t.id) as ids, array_agg(t.attempt) as attempts from taken t where t.data is null) o
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
    perform announce_ended(v_done.id);
    perform announce_freed(v_done.lane, v_done.limited);
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
  perform announce_ended(v_done.id);
  perform announce_freed(v_done.lane, v_done.limited);
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

create or replace function tasklane.release(task_id text, delay interval default null, reason text default null, attempt int default null) returns text
language plpgsql set search_path = tasklane as $$
-- Gives a running task back, to run again later: select tasklane.release('TASK-…', delay => '10 seconds');
-- Without delay, its retry settings (or its queue's) say when.
-- Returns  the task id. Raises TL404 for an unknown task, TL409 when it does not run, TL400 for a delay that can't be.
#variable_conflict use_column
declare
  v_seconds float8 := extract(epoch from release.delay);
  v_done record;
begin
  if v_seconds not between 0 and 31622400 then
    raise exception using errcode = 'TL400', message = 'delay is from nothing to 366 days';
  end if;
  select r.* into v_done from release_tasks(array[existing_id(release.task_id)], array[release.attempt], array[v_seconds], array[release.reason]) r;
  if v_done.lane is null then
    raise exception using errcode = 'TL409', message = format('task %s is %s', release.task_id, v_done.verdict);
  elsif v_done.verdict = 'waiting' then
    perform announce_waiting(v_done.lane, v_done.rank, v_done.id);
  elsif v_done.verdict = 'dead' then
    perform announce_ended(v_done.id);
  end if;
  perform announce_freed(v_done.lane, v_done.limited);
  return release.task_id;
end
$$;

create or replace function tasklane.heartbeat(task_id text, attempt int default null) returns text
language sql set search_path = tasklane as $$
  -- Extends the lease of a running task by its length: select tasklane.heartbeat('TASK-…');
  -- Returns extended, cancelled, or lost: it is not yours any more. Raises TL404 for an unknown task.
  select e.verdict from extend_leases(array[existing_id(heartbeat.task_id)], array[heartbeat.attempt]) e
$$;

create or replace function tasklane.set_priority(task_id text, priority int) returns text
language plpgsql set search_path = tasklane as $$
-- Changes the priority (0-100) of a task that waits or is deferred: select tasklane.set_priority('TASK-…', 15);
-- Returns  the task id. Raises TL404 for an unknown task, TL409 when it runs or has ended, TL400 for a priority that can't be.
#variable_conflict use_column
declare
  v_done record;
begin
  if set_priority.priority not between 0 and 100 or set_priority.priority is null then
    raise exception using errcode = 'TL400', message = 'priority is 0-100';
  end if;
  select p.* into v_done from set_priorities(array[existing_id(set_priority.task_id)], array[set_priority.priority]) p;
  if v_done.refusal is not null then
    raise exception using errcode = 'TL409', message = format('task %s is %s', set_priority.task_id, v_done.refusal);
  end if;
  if v_done.lane is not null then
    perform announce_waiting(v_done.lane, v_done.rank, v_done.id);
  end if;
  return set_priority.task_id;
end
$$;

create or replace function tasklane.replay(task_id text) returns text
language plpgsql set search_path = tasklane as $$
-- Gives a dead task a new life: select tasklane.replay('TASK-…'); all of a queue: select tasklane.replay(task_id) from tasklane.dead_task where queue = 'q';
-- Returns  the task id. Raises TL404 for an unknown task, TL409 when it is not dead.
#variable_conflict use_column
declare
  v_done record;
begin
  select r.* into v_done from replay_tasks(array[existing_id(replay.task_id)]) r;
  if v_done.refusal is not null then
    raise exception using errcode = 'TL409', message = format('task %s is %s', replay.task_id, v_done.refusal);
  end if;
  perform announce_waiting(v_done.lane, v_done.rank, v_done.id);
  return replay.task_id;
end
$$;

create or replace function tasklane.explain_task(task_id text)
returns table (status text, ahead int, eta_seconds float8, reason text, rule text)
language sql stable set search_path = tasklane as $$
  -- Why a task is where it is: select reason from tasklane.explain_task('TASK-…');
  -- Of all that wait in a queue: select s.task_id, e.reason from tasklane.task_status s, tasklane.explain_task(s.id) e where queue = 'q' and s.status = 'waiting';
  -- Raises TL404 for an unknown task.
  select e.* from explain_task(existing_id(explain_task.task_id)) e
$$;
