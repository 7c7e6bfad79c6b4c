create or replace function tasklane.take_fifo(
  p_lane_ids int[], p_hint_ranks smallint[], p_hint_ids bigint[], p_size int, p_before bigint default null
) returns table (turn int, lane_id int, rank smallint, id bigint)
language plpgsql stable rows 100 set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- fifo: over all lanes together, higher priority first, then the lowest id.
-- Returns  at most p_size candidates in that order. Locks nothing.
#variable_conflict use_column
declare
  -- Asking every lane for p_size rows is fine until the product gets large; then each gives twice its share first, and
  -- only lanes that could have more below the cut are asked again.
  v_each int := case when cardinality(p_lane_ids)::bigint * p_size <= 2000 then p_size
                     else ceil(2.0 * p_size / cardinality(p_lane_ids)) + 1 end;
begin
  if v_each = p_size then
    return query
    select h.turn, h.lane_id, h.rank, h.id from lane_heads(p_lane_ids, p_hint_ranks, p_hint_ids, p_size, p_before) h
    order by h.rank, h.id limit p_size;
    return;
  end if;

  return query
  with head as materialized (
    select * from lane_heads(p_lane_ids, p_hint_ranks, p_hint_ids, v_each, p_before)
  ), cut as materialized (
    select h.rank, h.id from head h order by h.rank, h.id offset p_size - 1 limit 1
  ), again as materialized (
    select h.turn, h.lane_id, h.rank, h.id from head h
    where h.nth = v_each and not exists (select from cut c where (h.rank, h.id) >= (c.rank, c.id))
  ), more as (
    select a.*, m.turn as nth_again, m.rank as more_rank, m.id as more_id
    from (select array_agg(turn order by turn) as turns, array_agg(lane_id order by turn) as lane_ids,
                 array_agg(rank order by turn) as ranks, array_agg(id order by turn) as ids from again) a
    cross join lateral lane_heads(a.lane_ids, a.ranks, a.ids, p_size, p_before) m
    where a.turns is not null
  )
  select o.turn, p_lane_ids[o.turn], o.rank, o.id
  from (
    select h.turn, h.rank, h.id from head h
    union   -- the last row of the first pass is the first of the second
    select m.turns[m.nth_again], m.more_rank, m.more_id from more m
  ) o
  order by o.rank, o.id limit p_size;
end
$$;
