create or replace function tasklane.make_lane(p_queue_id int, p_level int) returns int
language plpgsql set search_path = tasklane as $$
-- The lane's id; the lane is made when it is new. Two callers at once get the same one.
begin
  insert into lane (queue_id, level) values (p_queue_id, p_level) on conflict do nothing;
  return (select lane_id from lane where queue_id = p_queue_id and level = p_level);
end
$$;

create or replace function tasklane.put_tasks(
  p_groups int[], p_tenant_ids int[], p_key_ids int[], p_queues text[], p_endpoints text[], p_levels int[],
  p_modes text[], p_priorities int[], p_timeouts int[], p_callback_urls text[], p_trace_ids text[],
  p_data text[], p_instance_id int default null, p_models text[] default null
) returns table (ord int, id bigint, task_id text, lane text, rank smallint, code text, message text)
language plpgsql set search_path = tasklane set plan_cache_mode = force_generic_plan as $$
-- Puts tasks: one element of each array a task. Timeouts are in seconds. p_instance_id: the server that holds the
-- clients of blocking and streaming tasks. p_models: the data's models, where the caller has read them already; a task
-- without a queue is routed by its model. (Reading it here fails on data with an escape that Postgres can't store, \u0000.)
-- Items of one group (p_groups) stand or fall together; other groups are not touched by a refusal.
-- Returns  a row an item, in order: the id and where it waits, or code and message as find_route gives them.
-- Touches  task, ready, lane_tally (insert), lane (insert when a level is new), queue, channel (read).
#variable_conflict use_column
begin
  return query
  with input as materialized (
    select i.ord::int, i.grp, i.tenant_id, i.key_id, i.mode::response_mode as mode, (100 - i.priority)::smallint as rank,
           now() + make_interval(secs => i.timeout) as expires_at, i.callback_url, i.trace_id, i.data::json as data,
           i.queue, i.endpoint, i.level, case when i.queue is null then i.model end as model,
           -- what decides the lane, as one value that can be hashed; quoted, or one item could pose as another
           concat_ws(' ', i.level, quote_nullable(i.queue), quote_nullable(i.endpoint),
                     case when i.queue is null then quote_nullable(i.model) end) as place
    from (
      select u.*, case when p_models is null and u.queue is null then u.data::json ->> 'model' else u.given_model end as model
      from unnest(p_groups, p_tenant_ids, p_key_ids, p_queues, p_endpoints, p_levels, p_modes, p_priorities, p_timeouts,
                  p_callback_urls, p_trace_ids, p_data, p_models)
        with ordinality as u(grp, tenant_id, key_id, queue, endpoint, level, mode, priority, timeout, callback_url, trace_id,
                             data, given_model, ord)
    ) i
  ), place as materialized (
    -- calls mostly go to few places, so each is looked up once
    select p.place, f.queue_id, f.queue || ':' || p.level as lane, f.code, f.message,
           case when f.code is null then coalesce(l.lane_id, make_lane(f.queue_id, p.level)) end as lane_id
    from (select distinct on (i.place) i.place, i.level, i.queue, i.endpoint, i.model from input i) p
    cross join lateral find_route(p.queue, p.endpoint, p.model) f
    left join lane l on l.queue_id = f.queue_id and l.level = p.level
  ), routed as materialized (
    select i.*, p.queue_id, p.lane, p.lane_id, p.code, p.message from input i join place p using (place)
  ), item as materialized (
    select r.*, first_id_of(now()) + nextval('task_number') % 10000000000 as id
    from (select * from routed r
          where not exists (select from routed b where b.grp = r.grp and b.code is not null)
          order by r.ord) r
  ), put_task as (
    insert into task (id, created_at, expires_at, lane_id, tenant_id, key_id, instance_id, mode, rank, callback_url, trace_id, data)
    select i.id, now(), i.expires_at, i.lane_id, i.tenant_id, i.key_id,
           case when i.mode in ('blocking', 'streaming') then p_instance_id end, i.mode, i.rank, i.callback_url, i.trace_id, i.data
    from item i
  ), put_ready as (
    insert into ready (id, expires_at, lane_id, attempt, rank) select i.id, i.expires_at, i.lane_id, 0, i.rank from item i
  ), tally as (
    insert into lane_tally (lane_id, put_count, ended_count) select i.lane_id, count(*), 0 from item i group by i.lane_id
  )
  select r.ord, i.id, print_task_id(i.id, i.queue_id, i.level, i.mode), r.lane, r.rank, r.code, r.message
  from routed r left join item i using (ord)
  order by r.ord;
end
$$;
