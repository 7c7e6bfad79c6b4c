create or replace function tasklane.withdraw_tasks(p_ids bigint[], p_outcome tasklane.outcome)
returns table (id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Ends tasks that have no answer yet, wherever they are: cancelled ones and expired ones (502 dead, 408 expired, 499 cancelled).
-- A deadline must still have passed when the row is found: a replay may have come before.
-- Returns  the tasks that this call ended, as end_tasks does; others had ended before, or don't exist.
-- Touches  ready, running, deferred (delete) and what end_tasks does. The workers of those that ran are told by their heartbeats.
#variable_conflict use_column
declare
  v_ended result[] := '{}';
  v_more result[];
  v_status int := case p_outcome when 'dead' then 502 when 'expired' then 408 else 499 end;
begin
  -- A task can move while we look (taken, put back), so others follow when some were found in no place: the first of them may find
  -- another rank than the one it was put with, and lose the task there to a take.
  for v_look in 1..3 loop
    with live as materialized (
      -- In the order of ids, as complete_tasks locks; and by laterals, for its reason.
      select t.id, t.lane_id, t.rank from (select distinct u.id from unnest(p_ids) u(id) order by 1) i
      cross join lateral (select * from task t where t.id = i.id limit 1) t
      -- offset 0 keeps a look a look: as a join, planned while a partition is known to be empty, it would walk all of it.
      where not exists (select from unnest(v_ended) e where e.id = t.id)
        and not exists (select from result r where r.id = t.id offset 0)
    ), from_ready as (
      delete from ready where ctid = any (array(
        select w.ctid from live l
        -- the rank it was put with, then any other: the index leads with it
        cross join lateral (select l.rank where v_look = 1 union all select k from lane_ranks(l.lane_id) k where v_look > 1) k(rank)
        cross join lateral (
          select w.ctid from ready w where w.lane_id = l.lane_id and w.rank = k.rank and w.id = l.id
            and (p_outcome <> 'expired' or w.expires_at <= now()) for update) w))
      returning id, null::timestamptz as taken_at, attempt, null::text as worker
    ), from_running as (
      delete from running where ctid = any (array(
        select u.ctid from live l cross join lateral (select u.ctid from running u where u.id = l.id and (p_outcome <> 'expired' or u.expires_at <= now()) for update) u))
      returning id, taken_at, attempt, worker
    ), from_deferred as (
      delete from deferred where ctid = any (array(
        select d.ctid from live l cross join lateral (select d.ctid from deferred d where d.id = l.id and (p_outcome <> 'expired' or d.expires_at <= now()) for update) d))
      returning id, null::timestamptz, attempt, null::text
    )
    select array_agg((g.id, now(), g.taken_at, p_outcome, g.attempt, v_status, null, g.worker, null, null)::result) into v_more
    from (table from_ready union all table from_running union all table from_deferred) g;
    v_ended := v_ended || v_more;
    perform announce_gone(array_agg(m.id), array_agg(m.attempt), array_agg(m.worker)) from unnest(v_more) m where m.taken_at is not null;
    exit when cardinality(v_ended) = cardinality(p_ids);
  end loop;
  return query select e.id, e.task_id, e.lane, e.mode, e.instance_id, e.has_callback, e.limited from end_tasks(v_ended) e;
end
$$;

create or replace function tasklane.cancel_tasks(p_ids bigint[], p_tenant_ids int[] default null)
returns table (ord int, id bigint, refusal text, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Withdraws tasks for their owners: waiting, deferred and running alike. A tenant, where given, must be the task's.
-- Returns  a row a task, in order. refusal: null when this call cancelled it, unknown (another tenant's too), else the state it is in.
#variable_conflict use_column
begin
  return query
  with asked as materialized (
    select * from asked_tasks(p_ids, p_tenant_ids)
  ), ended as materialized (
    select * from withdraw_tasks(array(select a.id from asked a where a.first), 'cancelled')
  )
  select a.ord, a.id,
         case when e.id is null and a.own then refusal(a.id, null, null, null) when e.id is null then 'unknown' end,
         e.task_id, e.lane, e.mode, e.instance_id, e.has_callback, e.limited
  from asked a left join ended e on e.id = a.id and a.first
  order by a.ord;
end
$$;

create or replace function tasklane.clear_lane(p_lane text, p_limit int default 1000)
returns table (id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language plpgsql set search_path = tasklane as $$
-- Cancels up to p_limit of the tasks that wait in a lane, lines that wait in their batches at last; call it until it returns fewer.
-- Raises   TL404 for an unknown queue.
#variable_conflict use_column
declare
  v_lane_id int := lane_of(p_lane);
  v_batch_id bigint;
  v_ended result[];
begin
  with gone as (
    delete from ready where ctid = any (array(
      select w.ctid from ready w where w.lane_id = v_lane_id order by w.lane_id, w.rank, w.id limit p_limit for update skip locked))
    returning *
  )
  select coalesce(array_agg((g.id, now(), null, 'cancelled', g.attempt, 499, null, null, null, null)::result), '{}') into v_ended from gone g;
  for v_batch_id in select b.batch_id from batch_lane b where b.lane_id = v_lane_id and not b.all_released order by b.batch_id for update loop
    exit when cardinality(v_ended) >= p_limit;
    v_ended := v_ended || array(
      select (l.id, now(), null, 'cancelled', 0, 499, null, null, null, null)::result
      from unnest(release_lines(v_batch_id, v_lane_id, p_limit - cardinality(v_ended))) l(id));
  end loop;
  return query select e.id, e.task_id, e.lane, e.mode, e.instance_id, e.has_callback, e.limited from end_tasks(v_ended) e;
end
$$;
