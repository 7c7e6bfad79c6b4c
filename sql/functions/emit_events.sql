create or replace function tasklane.emit_events(
  p_ids bigint[], p_attempts int[], p_event_ids text[], p_names text[], p_datas text[], p_repeated boolean[] default null
) returns table (ord int, id bigint, verdict text, seq int, attempt int, mode tasklane.response_mode, instance_id int)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Stores progress of running tasks, one element of each array an event. Events are numbered within their task in the order
-- given; a number is visible only when all before it are, so readers may go by it. p_repeated: it may be stored already, and is not stored again
-- when this attempt has one with its event_id and name.
-- Returns  a row an event, in order. verdict: stored (seq null: before), unknown, else the task's state (running for a stale attempt).
-- Touches  task_event (insert), running (row lock until commit: it makes the numbering safe).
#variable_conflict use_column
declare
  v_recording boolean := recording();
  v_running bigint[];
begin
  -- Lock first, number in the next statement: it sees what the lock waited for.
  select array_agg(l.id) into v_running from (
    select r.id from running r where r.id = any(p_ids) and r.expires_at > now() order by r.id for update
  ) l;

  return query
  with input as materialized (
    select i.*, r.attempt as running_attempt, r.id is not null and (i.attempt is null or i.attempt = r.attempt) as held,
           -- A scalar subquery, since an exists may be planned as a hash of the whole table.
           case when i.repeated then coalesce((
             select true from task_event e where e.id = i.id and e.attempt = r.attempt and e.event_id = i.event_id and e.name = i.name limit 1
           ), false) else false end as there
    from unnest(p_ids, p_attempts, p_event_ids, p_names, p_datas, p_repeated)
      with ordinality as i(id, attempt, event_id, name, data, repeated, ord)
    left join lateral (select * from running r where r.id = i.id and r.id = any(v_running) limit 1) r on true
  ), judged as materialized (
    select i.*, i.held and not i.there as lives from input i
  ), numbered as materialized (
    select i.*, case when i.lives then coalesce((select e.seq from task_event e where e.id = i.id order by e.seq desc limit 1), 0)
                                       + row_number() over (partition by i.id, i.lives order by i.ord) end as seq
    from judged i
  ), stored as (
    insert into task_event (id, seq, created_at, event_id, name, data, attempt)
    select n.id, n.seq, now(), n.event_id, n.name, n.data::json, n.running_attempt from numbered n where n.lives
  ), events as (
    insert into event_stage (id, attempt, type, status, data)
    select n.id, n.running_attempt, 'progress', 'running',
           json_build_object('event_id', coalesce(n.event_id, n.seq::text), 'event_name', n.name, 'event_data', n.data::json)
    from numbered n where n.lives and v_recording and n.name <> 'response-headers' order by n.ord
  )
  select n.ord::int, n.id, case when n.held then 'stored' else coalesce(task_state(n.id), 'unknown') end, n.seq::int,
         n.running_attempt, t.mode, t.instance_id
  from numbered n left join task t on t.id = n.id and n.lives
  order by n.ord;
end
$$;

create or replace function tasklane.read_events(p_ids bigint[], p_afters int[], p_limit int default 1000)
returns table (id bigint, seq int, attempt int, event_id text, name text, data text)
language sql stable set search_path = tasklane as $$
  -- Each task's events after a number, in order, at most p_limit of each.
  select e.* from unnest(p_ids, p_afters) i(id, after)
  cross join lateral (
    select e.id, e.seq, e.attempt, e.event_id, e.name, e.data::text from task_event e
    where e.id = i.id and e.seq > i.after order by e.seq limit p_limit
  ) e
  order by e.id, e.seq
$$;

create or replace function tasklane.find_event(p_id bigint, p_event_id text) returns int
language sql stable set search_path = tasklane as $$
  -- The number of the latest event that bears p_event_id (its own, or its number where it has none); 0 when none does.
  select coalesce(max(e.seq), 0) from task_event e where e.id = p_id and coalesce(e.event_id, e.seq::text) = p_event_id
$$;
