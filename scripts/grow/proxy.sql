-- The database in front of the shards: functions of the same names, which PL/Proxy runs where a queue lives. It holds no task.
-- Foreign server `shards` has a partition for each of them, p0, p1, …; PL/Proxy wants 1, 2, 4, 8, … of them.
create schema tasklane;
create type tasklane.response_mode as enum ('blocking', 'streaming', 'callback', 'batch');

-- Queues that live elsewhere than their hash says. A row must be there before the queue is registered: tasks do not move.
create table tasklane.placement (queue text primary key, shard int not null);

create function tasklane.shard_count() returns int language sql stable as $$
  select count(*)::int from pg_foreign_server s cross join lateral unnest(s.srvoptions) o
  where s.srvname = 'shards' and o ~ '^p[0-9]+='
$$;

create function tasklane.shard_of(p_queue text) returns int language sql stable as $$
  -- Where all lanes of a queue live: its limits and its sequence hold within one database.
  select coalesce((select p.shard from tasklane.placement p where p.queue = p_queue), hashtext(p_queue) & (tasklane.shard_count() - 1))
$$;

create function tasklane.shard_of(p_id bigint) returns int language sql immutable as $$
  -- Where a task lives: the last digit of its id, by the sequences of the shards.
  select (p_id % 10)::int
$$;

create function tasklane.register_queue(queue text, endpoint text, settings json default '{}') returns text language plproxy as $$
  cluster 'shards'; run on tasklane.shard_of(queue);
$$;

create function tasklane.put_parts(
  p_ords int[], p_groups int[], p_tenant_ids int[], p_key_ids int[], p_queues text[], p_endpoints text[], p_levels int[],
  p_modes text[], p_priorities int[], p_timeouts int[], p_callback_urls text[], p_trace_ids text[],
  p_data text[], p_models text[], p_options text[], p_key_seconds int
) returns table (ord int, id bigint, task_id text, lane text, rank smallint, state text, code text, message text, retry_after int)
language plproxy as $$
  -- ord is where the item stood in the whole call.
  cluster 'shards';
  split p_ords, p_groups, p_tenant_ids, p_key_ids, p_queues, p_endpoints, p_levels, p_modes, p_priorities, p_timeouts, p_callback_urls,
        p_trace_ids, p_data, p_models, p_options;
  run on tasklane.shard_of(p_queues);
  select (p_ords::int[])[r.ord] as ord, r.id, r.task_id, r.lane, r.rank, r.state, r.code, r.message, r.retry_after
  from tasklane.put_tasks(p_groups::int[], p_tenant_ids::int[], p_key_ids::int[], p_queues::text[], p_endpoints::text[], p_levels::int[],
    p_modes::text[], p_priorities::int[], p_timeouts::int[], p_callback_urls::text[], p_trace_ids::text[], p_data::text[], null::int,
    p_models::text[], case when array_remove(p_options::text[], null) <> '{}' then p_options::text[] end, p_key_seconds::int) r;
$$;

create function tasklane.put_tasks(
  p_groups int[], p_tenant_ids int[], p_key_ids int[], p_queues text[], p_endpoints text[], p_levels int[],
  p_modes text[], p_priorities int[], p_timeouts int[], p_callback_urls text[], p_trace_ids text[],
  p_data text[], p_instance_id int default null, p_models text[] default null, p_options text[] default null,
  p_key_seconds int default 86400
) returns table (ord int, id bigint, task_id text, lane text, rank smallint, state text, code text, message text, retry_after int)
language sql as $$
  -- As put_tasks, but every item names its queue, and a group stands or falls together on each shard apart. When a shard is away, the
  -- call fails although others may have put their part: an idempotency key makes it safe to repeat.
  select p.* from tasklane.put_parts(array(select generate_series(1, cardinality(p_groups))), p_groups, p_tenant_ids, p_key_ids, p_queues,
    p_endpoints, p_levels, p_modes, p_priorities, p_timeouts, p_callback_urls, p_trace_ids, p_data,
    coalesce(p_models, array_fill(null::text, array[cardinality(p_groups)])),
    coalesce(p_options, array_fill(null::text, array[cardinality(p_groups)])), p_key_seconds) p
  order by p.ord
$$;

create function tasklane.take_on(p_shard int, p_lanes text[], p_sizes int[], p_strategy text, p_endpoint text, p_min_age_seconds int,
  p_lease_seconds int[], p_workers text[], p_max_attempts int[]
) returns table (
  request int, turn int, id bigint, rank smallint, task_id text, attempt int, ak text, instance text,
  endpoint text, queue text, level smallint, mode tasklane.response_mode, created_at timestamptz, expires_at timestamptz,
  batch_id text, trace_id text, custom_id text, callback_url text, metadata text, tops_up int, data text, more boolean
) language plproxy as $$
  cluster 'shards'; run on p_shard;
  select t.request, t.turn, t.id, t.rank, t.task_id, t.attempt, t.ak, t.instance, t.endpoint, t.queue, t.level, t.mode, t.created_at, t.expires_at,
    t.batch_id, t.trace_id, t.custom_id, t.callback_url, t.metadata, t.tops_up, t.data, t.more
  from tasklane.take_tasks(p_lanes::text[], p_sizes::int[], p_strategy::text, null::smallint[], null::bigint[], p_endpoint::text,
    p_min_age_seconds::int, p_lease_seconds::int[], p_workers::text[], p_max_attempts::int[]) t;
$$;

create function tasklane.take_tasks(
  p_lanes text[], p_sizes int[], p_strategy text, p_hint_ranks smallint[], p_hint_ids bigint[],
  p_endpoint text default null, p_min_age_seconds int default 0, p_lease_seconds int[] default null, p_workers text[] default null,
  p_max_attempts int[] default null
) returns table (
  request int, turn int, id bigint, rank smallint, task_id text, attempt int, ak text, instance text,
  endpoint text, queue text, level smallint, mode tasklane.response_mode, created_at timestamptz, expires_at timestamptz,
  batch_id text, trace_id text, custom_id text, callback_url text, metadata text, tops_up int, data text, more boolean
) language plpgsql as $$
-- As take_tasks, for one request (of p_sizes the first counts). Shards are asked one after the other until it has enough, another one first
-- each time; the strategy holds within a shard. Hints are passed over.
#variable_conflict use_column
declare
  v_left int := p_sizes[1];
  v_got int;
  v_part record;
begin
  for v_part in
    select tasklane.shard_of(split_part(l.lane, ':', 1)) as shard, array_agg(l.lane order by l.turn) as lanes, array_agg(l.turn::int order by l.turn) as turns
    from unnest(p_lanes) with ordinality as l(lane, turn) group by 1 order by random()
  loop
    exit when v_left = 0;
    return query
    select t.request, v_part.turns[t.turn], t.id, t.rank, t.task_id, t.attempt, t.ak, t.instance, t.endpoint, t.queue, t.level, t.mode,
           t.created_at, t.expires_at, t.batch_id, t.trace_id, t.custom_id, t.callback_url, t.metadata, t.tops_up, t.data, t.more
    from tasklane.take_on(v_part.shard, v_part.lanes, array[v_left], p_strategy, p_endpoint, p_min_age_seconds, p_lease_seconds, p_workers, p_max_attempts) t;
    get diagnostics v_got = row_count;
    v_left := v_left - v_got;
  end loop;
end
$$;

create function tasklane.complete_parts(p_ords int[], p_ids bigint[], p_attempts int[], p_status_codes int[], p_request_ids text[], p_bodies text[])
returns table (ord int, id bigint, verdict text, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language plproxy as $$
  cluster 'shards'; split all; run on tasklane.shard_of(p_ids);
  select (p_ords::int[])[c.ord] as ord, c.id, c.verdict, c.task_id, c.lane, c.mode, c.instance_id, c.has_callback, c.limited
  from tasklane.complete_tasks(p_ids::bigint[], p_attempts::int[], p_status_codes::int[], p_request_ids::text[], p_bodies::text[]) c;
$$;

create function tasklane.complete_tasks(p_ids bigint[], p_attempts int[], p_status_codes int[], p_request_ids text[], p_bodies text[])
returns table (ord int, id bigint, verdict text, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language sql as $$
  select c.* from tasklane.complete_parts(array(select generate_series(1, cardinality(p_ids))), p_ids, p_attempts, p_status_codes, p_request_ids, p_bodies) c
  order by c.ord
$$;

create function tasklane.stats_parts()
returns table (queue text, level smallint, waiting bigint, deferred bigint, running bigint, total_put_cnt bigint, total_completed_cnt bigint)
language plproxy as $$
  cluster 'shards'; run on all;
  select queue, level, waiting, deferred, running, total_put_cnt, total_completed_cnt from tasklane.queue_stats;
$$;
create view tasklane.queue_stats as select * from tasklane.stats_parts();
