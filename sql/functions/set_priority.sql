create or replace function tasklane.set_priorities(p_ids bigint[], p_priorities int[], p_tenant_ids int[] default null)
returns table (ord int, id bigint, refusal text, lane text, rank smallint)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Changes the priority (0-100) of tasks that wait or are deferred, by moving their rows. A tenant, where given, must be the task's.
-- Returns  a row a task, in order. refusal: null when it has the priority now, unknown (another tenant's too), else the state that forbids it;
--          lane and rank of one that waits: lower the heads.
-- Touches  ready (delete, insert), deferred, task (update).
#variable_conflict use_column
declare
  v_more record;
  v_moved ready[] := '{}';
  v_deferred bigint[] := '{}';
  v_ranks smallint[] := '{}';
  v_attempts int[] := '{}';
begin
  -- A task can move while we look (put back, come to wait, age), so others follow, over all ranks.
  for v_look in 1..3 loop
    with live as materialized (
      select t.id, t.lane_id, t.rank, (100 - p_priorities[a.ord])::smallint as new_rank
      from asked_tasks(p_ids, p_tenant_ids) a
      cross join lateral (select * from task t where t.id = a.id limit 1) t
      where a.first and t.id <> all (v_deferred) and not exists (select from unnest(v_moved) m where m.id = t.id)
      order by t.id
    ), gone as (
      delete from ready where ctid = any (array(
        select w.ctid from live l
        cross join lateral (select l.rank where v_look = 1 union all select k from lane_ranks(l.lane_id) k where v_look > 1) k(rank)
        cross join lateral (
          select w.ctid from ready w where w.lane_id = l.lane_id and w.rank = k.rank and w.id = l.id and w.expires_at > now() for update) w))
      returning *
    ), changed as (
      update deferred d set rank = l.new_rank from live l where d.id = l.id and d.expires_at > now()
      returning d.id, d.rank, d.attempt
    )
    select (select array_agg((g.id, g.expires_at, g.lane_id, g.attempt, l.new_rank, null, null)::ready) from gone g join live l using (id)) as moved,
           array_agg(c.id order by c.id) as ids, array_agg(c.rank order by c.id) as ranks, array_agg(c.attempt order by c.id) as attempts
      into v_more
    from changed c;
    v_moved := v_moved || v_more.moved;
    v_deferred := v_deferred || v_more.ids;
    v_ranks := v_ranks || v_more.ranks;
    v_attempts := v_attempts || v_more.attempts;
  end loop;

  update task t set rank = c.rank
  from (select d.id, d.rank from unnest(v_deferred, v_ranks) d(id, rank) union all select m.id, m.rank from unnest(v_moved) m) c
  where t.id = c.id;
  if recording() then
    perform record_events('priority_updated', 'waiting', array_agg(m.id), array_agg(m.attempt), array_agg(json_build_object('priority', 100 - m.rank)::text))
    from unnest(v_moved) m having count(*) > 0;
    perform record_events('priority_updated', 'deferred', v_deferred, v_attempts,
                          array(select json_build_object('priority', 100 - r.rank)::text from unnest(v_ranks) with ordinality r(rank, nth) order by r.nth));
  end if;

  return query
  with waiting as materialized (
    select * from make_ready(v_moved)
  )
  select a.ord, a.id,
         case when not a.own then 'unknown' when w.id is null and a.id <> all (v_deferred) then coalesce(task_state(a.id), 'unknown') end,
         w.lane, w.rank
  from asked_tasks(p_ids, p_tenant_ids) a left join waiting w on w.id = a.id
  order by a.ord;
end
$$;
