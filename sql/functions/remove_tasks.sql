create or replace function tasklane.remove_tasks(p_ids bigint[]) returns table (id bigint)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Deletes all rows of ended tasks. What has not ended, has a callback still to send, is a line of a batch that has not ended, or is in the hands
-- of another call (a replay, another removal) stays, without waiting for it.
-- Returns  the ids of those removed.
-- Touches  result, task, task_event, task_attempt, kept, callback_delivery (delete).
#variable_conflict use_column
declare
  v_ids bigint[];
  v_queue_ids int[];
  v_completed_ats timestamptz[];
  v_first bigint;
  v_last bigint;
begin
  -- Whoever has the result's row has the task.
  select array_agg(r.id) into v_ids
  from (select distinct u.id from unnest(p_ids) u(id) order by 1) i
  cross join lateral (select r.id from result r where r.id = i.id for update skip locked) r;

  -- A statement of its own: the one above can't see the retry of a callback that was committed just before the lock was had.
  select array_agg(o.id), array_agg(l.queue_id), array_agg(r.completed_at), min(o.id), max(o.id)
    into v_ids, v_queue_ids, v_completed_ats, v_first, v_last
  from unnest(v_ids) o(id)
  cross join lateral (select r.completed_at from result r where r.id = o.id limit 1) r
  left join lateral (select t.lane_id, t.batch_id from task t where t.id = o.id limit 1) t on true
  left join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l on true
  where not is_needed(o.id, t.batch_id);

  -- between: an array alone does not tell which partitions can have them.
  delete from task_event e where e.id = any (v_ids) and e.id between v_first and v_last;
  delete from task_attempt a where a.id = any (v_ids) and a.id between v_first and v_last;
  delete from task t where t.id = any (v_ids) and t.id between v_first and v_last;
  delete from result r where r.id = any (v_ids) and r.id between v_first and v_last;
  delete from callback_delivery d where d.task_id = any (v_ids) and d.finished_at is not null;
  delete from kept where ctid = any (array(
    select k.ctid from unnest(v_queue_ids, v_completed_ats, v_ids) o(queue_id, completed_at, id)
    cross join lateral (
      select k.ctid from kept k where k.queue_id = o.queue_id and k.completed_at = o.completed_at and k.id = o.id for update) k));
  return query select o.id from unnest(v_ids) o(id);
end
$$;

create or replace function tasklane.is_needed(p_id bigint, p_batch_id bigint) returns boolean
language sql stable set search_path = tasklane set enable_seqscan = off as $$
  -- Whether an ended task must stay, however old: its callback is still to be sent, or its batch's files are to be written.
  select exists (select from callback_delivery d where d.task_id = p_id and d.status = 'pending')
      or p_batch_id is not null and exists (
           select from batch b where b.batch_id = p_batch_id and b.status in ('validating', 'in_progress', 'finalizing', 'cancelling'))
$$;
