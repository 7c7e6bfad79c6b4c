create or replace function tasklane.return_tasks(p_ids bigint[], p_attempts int[])
returns table (id bigint, lane text, rank smallint, limited boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Puts taken tasks back where they were, as if they had not been taken: the worker was gone before it got them, or had not begun.
-- Returns  those that were still running under that attempt, and where they wait now.
#variable_conflict use_column
declare
  v_ids bigint[];
  v_back ready[];
begin
  select array_agg(r.id) into v_ids from (select * from unnest(p_ids, p_attempts) i(id, attempt) order by id) i
  cross join lateral (select r.id from running r where r.id = i.id and r.attempt = i.attempt for update) r;

  -- A statement of its own, for the reason that complete_tasks has.
  with gone as (
    delete from running where id = any (v_ids) returning *
  )
  select array_agg((g.id, g.expires_at, g.lane_id, g.attempt - 1, g.rank, null, null)::ready) into v_back from gone g;
  if recording() and v_back is not null then
    perform record_events('retried', 'waiting', array_agg(b.id), array_agg(b.attempt), array_agg('{"reason":"not begun"}'::text)) from unnest(v_back) b;
  end if;
  return query select * from make_ready(v_back);
end
$$;
