create or replace function tasklane.take_round_robin(
  p_lane_ids int[], p_hint_ranks smallint[], p_hint_ids bigint[], p_size int, p_before bigint default null,
  p_turns int[] default null, p_last int default 0
) returns table (turn int, lane_id int, rank smallint, id bigint)
language plpgsql stable rows 100 set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- round_robin: one task of each lane in turn, beginning with the lane after turn p_last; empty lanes are passed over.
-- p_turns: the lanes' places in the caller's list, where some of that list were left out.
-- Returns  at most p_size candidates in that order. Locks nothing.
#variable_conflict use_column
declare
  v_each int := ceil(1.0 * p_size / cardinality(p_lane_ids)) + 1;
  v_turns int[] := coalesce(p_turns, array(select generate_series(1, cardinality(p_lane_ids))));
  v_count int := v_turns[cardinality(v_turns)];
  v_found bigint;
  v_short bigint;
begin
  loop
    select count(*), count(*) filter (where h.nth = v_each) into v_found, v_short
    from lane_heads(p_lane_ids, p_hint_ranks, p_hint_ids, v_each, p_before) h;
    exit when v_found >= p_size or v_short = 0 or v_each >= p_size;
    v_each := least(v_each * 4, p_size);
  end loop;
  return query
  select h.turn, h.lane_id, h.rank, h.id
  from lane_heads(p_lane_ids, p_hint_ranks, p_hint_ids, v_each, p_before) h
  order by h.nth, (v_turns[h.turn] - p_last - 1 + v_count) % v_count limit p_size;
end
$$;

create or replace function tasklane.lock_turn(p_list int) returns int
language plpgsql set search_path = tasklane as $$
-- The turn at which the last take of this list of lanes stopped, 0 for none; others with the same list wait until the
-- transaction ends, so that turns alternate exactly, over all instances.
-- Kept in a sequence: a row updated by every take would be a chain of dead versions under a held snapshot. Each list
-- has one by its hash, and there are a million at most.
declare
  v_name text := 'turn_' || (p_list & 2147483647) % 1000000;
  v_last int;
begin
  perform pg_advisory_xact_lock(hashtext('tasklane.turn'), (p_list & 2147483647) % 1000000);
  if to_regclass('tasklane.' || v_name) is null then
    execute format('create sequence tasklane.%I', v_name);
  end if;
  execute format('select case when is_called then last_value else 0 end from tasklane.%I', v_name) into v_last;
  return v_last;
end
$$;

create or replace function tasklane.keep_turn(p_list int, p_turn int) returns void
language sql set search_path = tasklane as $$
  -- Remembers where a round_robin take stopped, for lock_turn.
  select setval('tasklane.turn_' || (p_list & 2147483647) % 1000000, p_turn)
$$;
