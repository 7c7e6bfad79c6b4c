create or replace function tasklane.take_sequential(
  p_lane_ids int[], p_hint_ranks smallint[], p_hint_ids bigint[], p_size int, p_before bigint default null
) returns table (turn int, lane_id int, rank smallint, id bigint)
language plpgsql volatile rows 100 set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- sequential: at most one task of each queue, and none of a queue that has one running, in any of its lanes. Of a queue
-- with several listed lanes the first that has work serves.
-- Returns  at most p_size candidates in the order of the lanes. Holds an advisory lock on each queue it returns until the transaction
-- ends: who comes second passes that queue over.
-- The running row is the lock; it goes with complete, cancel and expiry, so it can't leak.
#variable_conflict use_column
declare
  v_queues int[] := '{}';
  v_queue int;
  v_head record;
begin
  for v_turn in 1..cardinality(p_lane_ids) loop
    select l.queue_id into v_queue from lane l where l.lane_id = p_lane_ids[v_turn];
    continue when v_queue = any(v_queues) or exists (select from running r where r.queue_id = v_queue);
    select h.* into v_head
    from lane_heads(p_lane_ids[v_turn:v_turn], p_hint_ranks[v_turn:v_turn], p_hint_ids[v_turn:v_turn], 1, p_before) h;
    continue when not found or not pg_try_advisory_xact_lock(hashtext('tasklane.sequential'), v_queue);
    -- Volatile, so this statement sees what was committed up to now: who held the lock before us has its row in running.
    continue when exists (select from running r where r.queue_id = v_queue);
    v_queues := v_queues || v_queue;
    turn := v_turn; lane_id := v_head.lane_id; rank := v_head.rank; id := v_head.id;
    return next;
    exit when cardinality(v_queues) >= p_size;
  end loop;
end
$$;
