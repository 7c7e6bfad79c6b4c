create or replace function tasklane.replay_tasks(p_ids bigint[], p_tenant_ids int[] default null)
returns table (ord int, id bigint, refusal text, lane text, rank smallint)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Gives dead tasks a new life under their id, from attempt 1 and with as much time as they had; their attempts stay on record. A tenant, where given,
-- must be the task's. A batch's lines have theirs counted, and are run again as a batch of their own.
-- Returns  a row a task, in order. refusal: null when it waits now, at lane and rank; unknown (another tenant's too), line (of a batch), else the
--          state it is in.
-- Touches  result (delete, before all else), a callback's outbox row that tells of the death and was not delivered (delete), task (its deadline), ready,
--          lane_tally (insert).
#variable_conflict use_column
declare
  v_back ready[];
begin
  with gone as (
    -- in the order of ids; who comes second waits for the first and then finds none
    delete from result r using (
      select r.id from (select a.id from asked_tasks(p_ids, p_tenant_ids) a where a.first order by 1) o
      cross join lateral (select t.batch_id from task t where t.id = o.id limit 1) t
      cross join lateral (select r.id from result r where r.id = o.id and r.outcome = 'dead' and t.batch_id is null for update) r
    ) d where r.id = d.id
    returning r.id
  ), reborn as (
    update task t set expires_at = now() + (t.expires_at - coalesce(t.replayed_at, t.created_at)), replayed_at = now()
    from gone g where t.id = g.id
    returning t.id, t.expires_at, t.lane_id, t.rank, t.tenant_id
  ), tally as (
    insert into lane_tally (lane_id, tenant_id, put_count, ended_count)
    select b.lane_id, b.tenant_id, count(*), 0 from reborn b group by b.lane_id, b.tenant_id
  ), untold as (
    delete from callback_delivery c using gone g where c.task_id = g.id and c.status = 'pending'
  )
  select array_agg((b.id, b.expires_at, b.lane_id, 0, b.rank, null, null)::ready) into v_back from reborn b;
  if recording() and v_back is not null then
    perform record_events('replayed', 'waiting', array_agg(b.id), array_agg(0)) from unnest(v_back) b;
  end if;

  return query
  with waiting as materialized (
    select * from make_ready(v_back)
  )
  select a.ord, a.id, case when w.id is not null then null when not a.own then 'unknown' when t.batch_id is not null then 'line'
                            else coalesce(task_state(a.id), 'unknown') end, w.lane, w.rank
  from asked_tasks(p_ids, p_tenant_ids) a left join waiting w on w.id = a.id and a.first
  left join lateral (select t.batch_id from task t where t.id = a.id limit 1) t on true
  order by a.ord;
end
$$;

create or replace function tasklane.dead_tasks(p_tenant_id int default null, p_queue text default null, p_limit int default 1000)
returns bigint[]
language plpgsql stable set search_path = tasklane set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
-- The oldest p_limit dead tasks that are no lines of batches, of a tenant and of a queue where given. Raises TL404 for an unknown queue.
declare
  v_queue_id int := case when p_queue is not null then queue_of(p_queue) end;
begin
  return array(
    select r.id from result r
    cross join lateral (select * from task t where t.id = r.id limit 1) t
    cross join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l
    where r.outcome = 'dead' and t.batch_id is null and (p_tenant_id is null or t.tenant_id = p_tenant_id) and (v_queue_id is null or l.queue_id = v_queue_id)
    order by r.id limit p_limit);
end
$$;

create or replace function tasklane.purge_dead(p_tenant_id int default null, p_queue text default null, p_limit int default 1000) returns int
language plpgsql set search_path = tasklane as $$
-- Removes up to p_limit dead tasks and all that is known of them, of a tenant and of a queue where given. Returns how many; call it until
-- there are fewer. Raises TL404 for an unknown queue.
declare
  v_ids bigint[];
begin
  select coalesce(array_agg(r.id), '{}') into v_ids
  from (select d.id from unnest(dead_tasks(p_tenant_id, p_queue, p_limit)) d(id) order by 1) d
  cross join lateral (select r.id from result r where r.id = d.id and r.outcome = 'dead' for update) r;
  -- What the callback has not told yet, it will not tell: its owner wants the task gone.
  delete from callback_delivery c where c.task_id = any (v_ids);
  perform remove_tasks(v_ids);
  return cardinality(v_ids);
end
$$;
