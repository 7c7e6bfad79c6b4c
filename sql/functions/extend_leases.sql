create or replace function tasklane.extend_leases(p_ids bigint[], p_attempts int[], p_lease_seconds int[] default null)
returns table (ord int, verdict text, worker text, lease_seconds int, answered boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Workers' signs of life, one element of each array a task: its lease runs from now on for p_lease_seconds (null: as long as it was taken for).
-- An attempt, where given, must be the one that runs.
-- Returns  a row a task, in order. verdict: extended, for lease_seconds; cancelled; or lost: somebody else has it, it waits, or it has ended in another
--          way, answered where that was an answer, as it is while the worker's own is on its way.
-- Touches  running (update).
#variable_conflict use_column
declare
  v_ids bigint[];
begin
  -- Locked in the order of ids, so that two callers with the same tasks can't wait for each other.
  select array_agg(k.id) into v_ids
  from (select distinct i.id from unnest(p_ids) i(id) order by 1) i
  cross join lateral (select r.id from running r where r.id = i.id and r.expires_at > now() for update) k;

  return query
  with asked as materialized (
    select i.*, r.attempt as running_attempt, coalesce(i.lease_seconds, r.lease_seconds, q.lease_seconds) as lease, r.worker
    from unnest(p_ids, p_attempts, p_lease_seconds) with ordinality as i(id, attempt, lease_seconds, ord)
    left join lateral (select * from running r where r.id = i.id and r.id = any (v_ids) limit 1) r on true
    left join lateral (select * from queue q where q.queue_id = r.queue_id limit 1) q on true
  ), extended as (
    update running r set lease_until = now() + make_interval(secs => a.lease)
    from (select a.id, max(a.lease) as lease from asked a
          where a.running_attempt is not null and (a.attempt is null or a.attempt = a.running_attempt) group by a.id) a
    -- Lateral with a limit can't be turned round: planned while running is known to be empty, a join would begin with all of it.
    cross join lateral (select u.ctid as tid from running u where u.id = a.id limit 1) u
    where r.ctid = u.tid
  )
  select a.ord::int, case when v.extended then 'extended' when e.outcome = 'cancelled' then 'cancelled' else 'lost' end, a.worker,
         case when v.extended then a.lease end, coalesce(e.outcome in ('succeeded', 'failed'), false)
  from asked a
  cross join lateral (select a.running_attempt is not null and (a.attempt is null or a.attempt = a.running_attempt) as extended) v
  left join lateral (select * from result e where e.id = a.id and not v.extended limit 1) e on true
  order by a.ord;
end
$$;
