create or replace function tasklane.is_answering(p_mode tasklane.response_mode, p_completed_at timestamptz) returns boolean
language sql stable as $$
  -- Whether a client may still be told of this end: whatever the queue's settings, a minute belongs to a client that waits.
  select p_mode in ('blocking', 'streaming') and p_completed_at > now() - interval '1 minute'
$$;

create or replace function tasklane.ended_between(p_from timestamptz, p_to timestamptz, p_limit bigint)
returns table (id bigint, completed_at timestamptz)
language plpgsql stable set search_path = tasklane
-- Nothing but the index of ends: with a limit any other looks cheap to the planner.
set enable_seqscan = off set enable_indexscan = off set enable_indexonlyscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Results from p_from on and before p_to, in no order; at most p_limit.
#variable_conflict use_column
begin
  return query select r.id, r.completed_at from result r where r.completed_at >= p_from and r.completed_at < p_to limit p_limit;
end
$$;

create or replace function tasklane.remove_kept(p_queue_id int, p_before timestamptz, p_oldest bigint, p_limit int) returns int
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Removes up to p_limit of the tasks that kept has of a queue: of the p_oldest (null: any) that ended before p_before.
-- Returns  how many rows of kept went.
#variable_conflict use_column
declare
  v_ids bigint[];
  v_completed_ats timestamptz[];
  v_removed bigint[];
  v_stale int;
begin
  select array_agg(k.id), array_agg(k.completed_at) into v_ids, v_completed_ats
  from (
    select k.id, k.completed_at
    from (
      select k.id, k.completed_at from kept k where k.queue_id = p_queue_id and k.completed_at < p_before
      order by k.queue_id, k.completed_at, k.id limit p_oldest
    ) k
    left join lateral (select t.mode, t.batch_id from task t where t.id = k.id limit 1) t on true
    where not is_needed(k.id, t.batch_id) and is_answering(t.mode, k.completed_at) is not true
    limit p_limit
  ) k;

  v_removed := array(
    select g.id from remove_tasks(array(
      select o.id from unnest(v_ids, v_completed_ats) o(id, completed_at)
      -- not one that was replayed and has ended again since
      cross join lateral (select r.completed_at from result r where r.id = o.id limit 1) r where r.completed_at = o.completed_at)) g);

  -- Of a task that is gone, or lives again.
  delete from kept where ctid = any (array(
    select k.ctid from unnest(v_ids, v_completed_ats) o(id, completed_at)
    left join lateral (select r.completed_at from result r where r.id = o.id limit 1) r on true
    cross join lateral (
      select k.ctid from kept k where k.queue_id = p_queue_id and k.completed_at = o.completed_at and k.id = o.id for update) k
    where r.completed_at is distinct from o.completed_at));
  get diagnostics v_stale = row_count;
  return cardinality(v_removed) + v_stale;
end
$$;

create or replace function tasklane.trim_kept(p_limit int default 2000) returns boolean
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
-- Removes the oldest finished tasks of queues that have more than their max_completed_tasks, up to p_limit of each. One caller
-- of this and remove_finished at a time: a second one goes home.
-- Returns  whether there is more to do at once.
declare
  v_queue record;
  v_more boolean := false;
begin
  if not pg_try_advisory_xact_lock(hashtext('tasklane.retention')) then
    return false;
  end if;
  for v_queue in
    select q.queue_id, n.excess from queue q
    cross join lateral (select count(*) - q.max_completed_tasks as excess from kept k where k.queue_id = q.queue_id) n
    where q.max_completed_tasks is not null and n.excess > 0
  loop
    v_more := remove_kept(v_queue.queue_id, 'infinity', v_queue.excess, p_limit) >= p_limit or v_more;
  end loop;
  return v_more;
end
$$;

create or replace function tasklane.due_queues() returns table (queue_id int, retained_from timestamptz, until timestamptz)
language sql stable set search_path = tasklane as $$
  -- Queues whose finished tasks are to be removed one by one: what ended before until.
  -- Looking costs as much as all that has ended in any queue since retained_from, so a queue's turn comes when a twentieth of its retention,
  -- or an hour, has gone by. Where dropping whole days is at most a quarter late, it is left to that; only what it leaves, on days
  -- that something keeps, is removed here.
  select a.queue_id, a.retained_from, a.until
  from (
    select q.*, now() - make_interval(secs => q.retention_seconds) - case
             when q.retention_seconds * interval '1.25 seconds' >= longest_retention() + interval '36 hours' then interval '36 hours' else '0' end as until
    from queue q
  ) a
  where a.retained_from < a.until - least(a.retention_seconds * interval '0.05 seconds', interval '1 hour')
    and (a.deleted_at is null or a.deleted_at >= a.retained_from)
$$;

create or replace function tasklane.remove_finished(p_limit int default 2000) returns boolean
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Removes up to p_limit finished tasks that are older than their queue keeps them (see due_queues). One caller of this and trim_kept at a
-- time: a second one goes home.
-- Queues of one retention are looked through together, from retained_from on in spans of time, for results don't say their queue.
-- Returns  whether there is more to do at once.
-- Touches  queue (retained_from) and what remove_tasks does; kept (insert: too old, but still needed; looked at again from there).
#variable_conflict use_column
declare
  v_queue_ids int[];
  v_left int := p_limit;
  v_look bigint := 20 * p_limit;
  v_group record;
  v_queue_id int;
  v_lane_ids int[];
  v_from timestamptz;
  v_to timestamptz;
  v_width interval;
  v_ids bigint[];
  v_free bigint[];
  v_seen bigint;
begin
  if not pg_try_advisory_xact_lock(hashtext('tasklane.retention')) then
    return false;
  end if;
  v_queue_ids := array(select q.queue_id from queue q where q.queue_id = any (array(select d.queue_id from due_queues() d))
                       order by q.queue_id for no key update skip locked);
  -- Asked again: what was changed before the lock was had counts.
  for v_group in
    select array_agg(d.queue_id) as queue_ids, min(d.retained_from) as retained_from, d.until
    from due_queues() d where d.queue_id = any (v_queue_ids) group by d.until order by d.until desc
  loop
    foreach v_queue_id in array v_group.queue_ids loop
      v_left := v_left - remove_kept(v_queue_id, v_group.until, null, v_left);
    end loop;

    v_lane_ids := array(select l.lane_id from lane l where l.queue_id = any (v_group.queue_ids));
    v_from := v_group.retained_from;
    if v_from = '-infinity' then
      -- Nothing ended before the oldest task that is there was put.
      v_from := least(v_group.until, (select to_timestamp(min(r.id) / 10000000000 + 1735689600) from result r));
    end if;
    v_width := v_group.until - v_from;
    while v_from < v_group.until and v_left > 0 and v_look > 0 loop
      v_to := least(v_group.until, v_from + v_width);
      select array_agg(r.id) filter (where t.lane_id = any (v_lane_ids) and not is_answering(t.mode, r.completed_at)), count(*)
        into v_ids, v_seen
      from ended_between(v_from, v_to, case when v_width > interval '1 second' then 5 * p_limit end) r
      cross join lateral (select t.lane_id, t.mode from task t where t.id = r.id limit 1) t;
      if v_seen >= 5 * p_limit and v_width > interval '1 second' then
        v_width := greatest(v_width / 4, interval '1 second');
        continue;
      end if;
      if v_ids is not null then
        v_free := array(
          select i.id from unnest(v_ids) i(id)
          left join lateral (select t.batch_id from task t where t.id = i.id limit 1) t on true
          where not is_needed(i.id, t.batch_id));
        perform remove_tasks(v_free[1:v_left]);
        v_left := v_left - cardinality(v_free);
        exit when v_left < 0;
        insert into kept (queue_id, completed_at, id)
        select l.queue_id, r.completed_at, i.id
        from unnest(v_ids) i(id)
        cross join lateral (select r.completed_at from result r where r.id = i.id limit 1) r
        cross join lateral (select t.lane_id from task t where t.id = i.id limit 1) t
        cross join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l
        on conflict do nothing;
      end if;
      v_look := v_look - v_seen;
      v_from := v_to;
      v_width := v_width * 2;
    end loop;

    -- Not up to now: a call that ends tasks can commit a while after the time that they bear.
    update queue q set retained_from = greatest(q.retained_from, least(v_from, now() - interval '1 minute'))
    where q.queue_id = any (v_group.queue_ids) and q.retained_from < least(v_from, now() - interval '1 minute');
    if v_left <= 0 or v_look <= 0 then
      return true;
    end if;
  end loop;
  return false;
end
$$;

create or replace function tasklane.remove_leftovers(p_limit int default 2000) returns boolean
language plpgsql set search_path = tasklane set enable_seqscan = off as $$
-- Removes deliveries of callbacks that were finished more than 7 days ago, idempotency keys that have expired, and the order in which the lines of
-- batches ended that were made more than 60 days ago, up to p_limit of each. (Keys a minute later than they expire: a put that has just found one
-- alive will look at it once more.)
-- Returns  whether there is more to do at once.
declare
  v_deliveries int;
  v_keys int;
  v_ends int;
begin
  delete from callback_delivery where ctid = any (array(
    select d.ctid from callback_delivery d where d.finished_at < now() - interval '7 days' order by d.finished_at limit p_limit for update skip locked));
  get diagnostics v_deliveries = row_count;
  delete from idempotency_key where ctid = any (array(
    select i.ctid from idempotency_key i where i.expires_at < now() - interval '1 minute' order by i.expires_at limit p_limit for update skip locked));
  get diagnostics v_keys = row_count;
  delete from batch_done where ctid = any (array(
    select d.ctid from batch_done d where d.batch_id < first_id_of(now() - interval '60 days') order by d.batch_id, d.first limit p_limit for update skip locked));
  get diagnostics v_ends = row_count;
  return greatest(v_deliveries, v_keys, v_ends) >= p_limit;
end
$$;

create or replace function tasklane.fill_kept(p_queue_id int) returns void
language sql set search_path = tasklane as $$
  -- Enters what has ended in a queue into kept, so that it counts: for a queue that gets a max_completed_tasks. Looks through all results.
  insert into kept (queue_id, completed_at, id)
  select p_queue_id, r.completed_at, r.id
  from result r cross join lateral (select t.lane_id from task t where t.id = r.id limit 1) t
  where t.lane_id in (select l.lane_id from lane l where l.queue_id = p_queue_id)
  on conflict do nothing
$$;
