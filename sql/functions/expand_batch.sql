create or replace function tasklane.fail_batch(p_batch_id bigint, p_errors json) returns boolean
language plpgsql set search_path = tasklane as $$
-- Ends a batch whose input can't be run: {"object": "list", "data": [{code, message, param, line}]}. Returns whether it did.
begin
  update batch b set status = 'failed', failed_at = now(), errors = p_errors where b.batch_id = p_batch_id and b.status = 'validating';
  if not found then
    return false;
  end if;
  perform announce_batch(p_batch_id);
  return true;
end
$$;

create or replace function tasklane.start_batch(p_batch_id bigint, p_models text[], p_counts int[]) returns boolean
language plpgsql set search_path = tasklane as $$
-- Begins a batch whose lines have been looked at: p_models are their models (one, of any name, where the batch names its queue), p_counts how
-- many lines have each.
-- Returns  whether it did; not when it has been cancelled meanwhile, or begun by another server, or its window is over.
-- Raises   TL409 when a model has no route any more: look at the lines again.
-- Touches  batch (update), batch_lane, lane (insert).
#variable_conflict use_column
declare
  v_batch batch;
begin
  -- Who deletes a queue waits for this, or is waited for.
  lock table task in row exclusive mode;
  select * into v_batch from batch b where b.batch_id = p_batch_id and b.status = 'validating' and b.expires_at > now() for update;
  if not found then
    return false;
  end if;
  if exists (select from unnest(p_models) m(model)
             cross join lateral find_route((select q.queue from queue q where q.queue_id = v_batch.queue_id), v_batch.endpoint, m.model) f
             where f.code is not null or f.queue_id is distinct from coalesce(v_batch.queue_id, f.queue_id)) then
    raise exception using errcode = 'TL409', message = 'a model of the batch has no route any more';
  end if;

  with route as materialized (
    select case when v_batch.queue_id is null then m.model else '' end as model, m.count, make_lane(coalesce(v_batch.queue_id, f.queue_id), 1) as lane_id
    from unnest(p_models, p_counts) m(model, count)
    left join lateral find_route(null, v_batch.endpoint, m.model) f on v_batch.queue_id is null
  ), lanes as (
    insert into batch_lane (batch_id, lane_id, lines) select p_batch_id, r.lane_id, sum(r.count) from route r group by r.lane_id
  )
  update batch b set status = 'in_progress', in_progress_at = now(), total = (select sum(c) from unnest(p_counts) c),
    model = case when cardinality(p_models) = 1 and p_models[1] <> '' then p_models[1] end,
    routes = (select jsonb_object_agg(r.model, r.lane_id) from route r), worked_at = now()
  where b.batch_id = p_batch_id;
  return true;
end
$$;

create or replace function tasklane.expand_batch(
  p_batch_id bigint, p_from bigint, p_to bigint, p_models text[], p_custom_ids text[], p_data text[], p_last boolean
) returns int[]
language plpgsql set search_path = tasklane set plan_cache_mode = force_generic_plan as $$
-- Makes tasks of the lines between two bytes of a batch's input, in their order: one element of each array a line. They wait, and come into ready
-- as top_up_lanes lets them. The place where the batch stands moves in the same transaction, so no line is lost and none comes twice,
-- whoever is killed when.
-- Returns  the lanes that they went to; null when the batch does not stand at p_from: somebody else expands it, or it has ended.
-- Touches  batch (update), task, lane_tally, event_stage (insert).
#variable_conflict use_column
declare
  v_batch batch;
  v_lanes int[];
begin
  select * into v_batch from batch b where b.batch_id = p_batch_id for no key update;
  if v_batch.read_to is distinct from p_from or v_batch.expanded or v_batch.status not in ('in_progress', 'cancelling', 'finalizing') then
    return null;
  end if;
  with line as materialized (
    select new_task_id() as id, (v_batch.routes ->> case when v_batch.queue_id is null then u.model else '' end)::int as lane_id, u.custom_id, u.data
    from unnest(p_models, p_custom_ids, p_data) as u(model, custom_id, data)
  ), put_task as (
    insert into task (id, created_at, expires_at, batch_id, lane_id, tenant_id, key_id, mode, rank, custom_id, data)
    select l.id, now(), v_batch.expires_at, p_batch_id, l.lane_id, v_batch.tenant_id, v_batch.key_id, 'batch', batch_rank(), l.custom_id, l.data::json
    from line l
  ), tally as (
    -- no tenant: its limits are of what is put, and a batch's lines wait in the batch
    insert into lane_tally (lane_id, tenant_id, put_count, ended_count) select l.lane_id, null, count(*), 0 from line l group by l.lane_id
  ), events as (
    insert into event_stage (id, attempt, type, status) select l.id, 0, 'submitted', 'waiting' from line l where recording() order by l.id
  )
  select coalesce(array_agg(distinct l.lane_id), '{}') into v_lanes from line l;
  update batch b set read_to = p_to, expanded = p_last, worked_at = now() where b.batch_id = p_batch_id;
  return v_lanes;
end
$$;

create or replace function tasklane.batch_rank() returns smallint
language sql immutable parallel safe as $$
  -- Lines of batches have the usual priority, 5.
  select 95::smallint
$$;

create or replace function tasklane.touch_batch(p_batch_id bigint) returns boolean
language sql set search_path = tasklane as $$
  -- A sign that a server is at work on the batch. Returns whether its lines are still wanted: it is not cancelled, and its window not over.
  update batch set worked_at = now() where batch_id = p_batch_id returning ending is null and expires_at > now()
$$;

create or replace function tasklane.claim_batches(p_ids bigint[] default null, p_quiet_seconds int default 5) returns setof tasklane.batch
language sql set search_path = tasklane as $$
  -- Batches with work to do, of p_ids where given, that no server has given a sign of working on for p_quiet_seconds: now this one does. To do
  -- the work twice is safe, so this saves effort only. Here a batch of which all lines have ended, or whose window is over, comes to its end;
  -- for the latter nobody waits.
  with due as materialized (
    select b.batch_id, case when b.status not in ('validating', 'in_progress') then null
                            when b.status = 'in_progress' and b.expanded and b.completed + b.failed + b.unanswered >= b.total
                              then case when b.unanswered = 0 then 'completed' else 'expired' end
                            when b.expires_at <= now() then 'expired' end::batch_status as ending
    from batch b
    where b.status in ('validating', 'in_progress', 'finalizing', 'cancelling') and (p_ids is null or b.batch_id = any (p_ids))
      and (b.status <> 'in_progress' or not b.expanded or b.expires_at <= now() or b.completed + b.failed + b.unanswered >= b.total)
      and (b.worked_at is null or b.worked_at <= now() - make_interval(secs => p_quiet_seconds)
           or b.ending is null and b.expires_at <= now())
    order by b.batch_id for no key update
  )
  update batch b set worked_at = now(), ending = coalesce(d.ending, b.ending),
    status = case when d.ending is null then b.status else 'finalizing' end,
    finalizing_at = case when d.ending is null then b.finalizing_at else now() end
  from due d where b.batch_id = d.batch_id
  returning b.*
$$;
