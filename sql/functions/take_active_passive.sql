create or replace function tasklane.take_active_passive(
  p_lane_ids int[], p_hint_ranks smallint[], p_hint_ids bigint[], p_size int, p_before bigint default null
) returns table (turn int, lane_id int, rank smallint, id bigint)
language plpgsql stable rows 100 set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- active_passive: the first lane until it is empty, then the next.
-- Returns  at most p_size candidates in that order. Locks nothing.
-- A loop, not one ordered statement: the planner does not know that the lanes come in order and would ask them all.
#variable_conflict use_column
declare
  v_left int := p_size;
  v_found int;
begin
  for v_turn in 1..cardinality(p_lane_ids) loop
    return query
    select v_turn, h.lane_id, h.rank, h.id
    from lane_heads(p_lane_ids[v_turn:v_turn], p_hint_ranks[v_turn:v_turn], p_hint_ids[v_turn:v_turn], v_left, p_before) h;
    get diagnostics v_found = row_count;
    v_left := v_left - v_found;
    exit when v_left <= 0;
  end loop;
end
$$;
