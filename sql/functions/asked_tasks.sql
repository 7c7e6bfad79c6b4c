create or replace function tasklane.asked_tasks(p_ids bigint[], p_tenant_ids int[])
returns table (ord int, id bigint, own boolean, first boolean)
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Who may do something to which task, where one call bears many callers' wishes: own when the task is there and the caller's tenant, where
-- given, is its own; first for the first of those who may.
#variable_conflict use_column
begin
  return query
  select a.ord, a.id, a.own, a.own and row_number() over (partition by a.id, a.own order by a.ord) = 1
  from (
    select i.ord::int, i.id, t.id is not null and (i.tenant_id is null or i.tenant_id = t.tenant_id) as own
    from unnest(p_ids, p_tenant_ids) with ordinality as i(id, tenant_id, ord)
    left join lateral (select t.id, t.tenant_id from task t where t.id = i.id limit 1) t on true
  ) a;
end
$$;
