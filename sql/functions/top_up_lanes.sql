create or replace function tasklane.top_up_lanes(p_lane_ids int[] default null) returns table (id bigint, lane text, rank smallint, limited boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Lets the next lines of batches come into ready, in the lanes given, or all. All batches that run in a lane get the same share of a window,
-- and the next shares only when the youngest one's has been half taken, or wholly if it was its last: takes go by id, so before that the
-- older batches would pass it by.
-- The window follows the workers: twice as long when it was taken in less than a second, half as long when it took more than five, so
-- that a batch behind a large one waits for seconds, and takes still find enough.
-- Returns  what waits now, as make_ready does.
-- Touches  batch_lane, lane (update), ready (insert). One caller a lane at a time; a second one goes on to the next lane.
#variable_conflict use_column
declare
  v_lane record;
  v_batch record;
  v_window int;
  v_share int;
  v_ids bigint[];
  v_next bigint[];
  v_last bigint;
  v_mark bigint;
  v_youngest bigint;
  v_new ready[];
  v_ranks smallint[];
begin
  for v_lane in
    select distinct b.lane_id from batch_lane b
    where not b.all_released and (p_lane_ids is null or b.lane_id = any (p_lane_ids)) order by 1
  loop
    continue when not pg_try_advisory_xact_lock(hashtext('tasklane.top_up_lanes'), v_lane.lane_id);
    select l.* into v_lane from lane l where l.lane_id = v_lane.lane_id;
    -- A line that waits may have another rank by now: it has aged, or was given another priority.
    v_ranks := array(select lane_ranks(v_lane.lane_id));
    continue when exists (select from ready w where w.lane_id = v_lane.lane_id and w.rank = any (v_ranks) and w.id = v_lane.top_up_at);

    v_window := case when v_lane.topped_up_at > now() - interval '1 second' then least(4096, v_lane.window_lines * 2)
                     when v_lane.topped_up_at < now() - interval '5 seconds' then greatest(128, v_lane.window_lines / 2)
                     else v_lane.window_lines end;
    perform from batch_lane b where b.lane_id = v_lane.lane_id and not b.all_released order by b.batch_id for update;
    v_ids := '{}';
    v_last := null;
    v_new := '{}';
    -- A statement of its own: it sees a cancel that was committed while we waited for the rows.
    for v_batch in
      select b.batch_id, a.expires_at, count(*) over () as running
      from batch_lane b join batch a on a.batch_id = b.batch_id
      where b.lane_id = v_lane.lane_id and not b.all_released and a.status = 'in_progress' and not a.paused
      order by b.batch_id
    loop
      v_share := greatest(1, v_window / v_batch.running);
      v_next := release_lines(v_batch.batch_id, v_lane.lane_id, v_share);
      v_new := v_new || array(select (n.id, v_batch.expires_at, v_lane.lane_id, 0, batch_rank(), null, null)::ready from unnest(v_next) n(id));
      v_ids := v_ids || v_next;
      if v_next[cardinality(v_next)] > coalesce(v_last, 0) then
        v_last := v_next[cardinality(v_next)];
        v_mark := case when cardinality(v_next) < v_share then v_last else v_next[(cardinality(v_next) + 1) / 2] end;
      end if;
    end loop;
    if v_ids <> '{}' then
      v_youngest := (
        select max(b.released_through) from batch_lane b
        where b.lane_id = v_lane.lane_id and b.released_through > v_last
          and exists (select from ready w where w.lane_id = v_lane.lane_id and w.rank = any (v_ranks) and w.id = b.released_through));
      return query select * from make_ready(v_new);
      update lane l set window_lines = v_window, topped_up_at = now(), top_up_at = coalesce(v_youngest, v_mark)
      where l.lane_id = v_lane.lane_id;
    elsif v_lane.top_up_at is not null then
      update lane l set top_up_at = null where l.lane_id = v_lane.lane_id;
    end if;
  end loop;
end
$$;

create or replace function tasklane.release_lines(p_batch_id bigint, p_lane_id int, p_limit int) returns bigint[]
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- The next lines of a batch for a lane, up to p_limit, that wait in their batch and from now on don't: the caller, who holds the row of batch_lane,
-- lets them wait in ready or ends them. None: there are no more, for now.
-- Touches  batch_lane (update).
declare
  v_expanded boolean := (select b.expanded from batch b where b.batch_id = p_batch_id);
  v_after bigint := (select b.released_through from batch_lane b where b.batch_id = p_batch_id and b.lane_id = p_lane_id);
  v_next bigint[];
  v_last boolean := false;
  v_lines bigint[] := '{}';
begin
  while v_lines = '{}' and not v_last loop
    v_next := array(
      select t.id from task t where t.batch_id = p_batch_id and t.lane_id = p_lane_id and t.id > v_after
      order by t.batch_id, t.lane_id, t.id limit p_limit);
    v_last := cardinality(v_next) < p_limit;
    v_after := coalesce(v_next[cardinality(v_next)], v_after);
    -- After a pause some have been taken before.
    v_lines := array(
      select n.id from unnest(v_next) n(id)
      where not exists (select from running u where u.id = n.id offset 0) and not exists (select from deferred d where d.id = n.id offset 0)
        and not exists (select from result r where r.id = n.id offset 0)
        and not exists (select from lane_ranks(p_lane_id) k(rank) join ready w on w.lane_id = p_lane_id and w.rank = k.rank and w.id = n.id offset 0)
      order by n.id);
  end loop;
  update batch_lane b set released_through = v_after, all_released = v_expanded and v_last
  where b.batch_id = p_batch_id and b.lane_id = p_lane_id;
  return v_lines;
end
$$;
