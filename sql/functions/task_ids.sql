create or replace function tasklane.first_id_of(p_at timestamptz) returns bigint
language sql stable parallel safe as $$
  -- The smallest id a task created in the second of p_at can have. Ids start with seconds since 2025-01-01 UTC.
  select (floor(extract(epoch from p_at))::bigint - 1735689600) * 10000000000
$$;

create or replace function tasklane.print_task_id(
  p_id bigint, p_queue_id int, p_level int, p_mode tasklane.response_mode
) returns text
language sql stable parallel safe as $$
  -- TASK-{queue number}-{level}-{B|S|C|P}-{yyMMddHHmmss}-{4 digits}-{6 digits}; parse_task_id turns it back.
  -- Stable, as to_char is: called immutable it would not be inlined, which costs 3-4 µs a task (a put: 20).
  select 'TASK-' || p_queue_id || '-' || p_level || '-'
    || case p_mode when 'batch' then 'P' else upper(left(p_mode::text, 1)) end || '-'
    || to_char(to_timestamp(p_id / 10000000000 + 1735689600) at time zone 'UTC', 'YYMMDDHH24MISS') || '-'
    || lpad((p_id % 10000000000 / 1000000)::text, 4, '0') || '-' || lpad((p_id % 1000000)::text, 6, '0')
$$;

create or replace function tasklane.print_batch_id(p_batch_id bigint) returns text
language sql stable parallel safe as $$
  -- BATCH-0-1-{yyMMddHHmmss}-{4 digits}-{6 digits}: as a task's, of no queue, since lines of one batch may go to many, at level 1.
  select 'BATCH-0-1-' || to_char(to_timestamp(p_batch_id / 10000000000 + 1735689600) at time zone 'UTC', 'YYMMDDHH24MISS') || '-'
    || lpad((p_batch_id % 10000000000 / 1000000)::text, 4, '0') || '-' || lpad((p_batch_id % 1000000)::text, 6, '0')
$$;

create or replace function tasklane.parse_batch_id(p_batch_id text) returns bigint
language sql stable parallel safe as $$
  -- The number that a batch's printed id spells; null when it is none.
  select case when p_batch_id like 'BATCH-0-1-%' then tasklane.parse_task_id('TASK-0-1-P-' || substr(p_batch_id, 11)) end
$$;

create or replace function tasklane.parse_task_id(p_task_id text) returns bigint
language sql stable parallel safe as $$
  -- The number that a printed id spells, without a look-up; null when it is no printed id.
  -- Adding up intervals can't fail, as a cast can; a date that does not exist (30 February, 24:00:00) prints as another.
  -- In 2054 the numbers run out. offset 0: else the planner repeats the match at each use, ten times over.
  select case when to_char(a.at, 'YYMMDDHH24MISS') = p.part[1] and a.at >= '2025-01-01' and a.at < '2054-01-01'
              then tasklane.first_id_of(a.at at time zone 'UTC') + (p.part[2] || p.part[3])::bigint end
  from (select regexp_match(p_task_id, '^TASK-[0-9]{1,10}-[0-9]{1,2}-[BSCP]-([0-9]{12})-([0-9]{4})-([0-9]{6})$') as part offset 0) p
  cross join lateral (
    select timestamp '2000-01-01' + make_interval(left(n, 2)::int, substr(n, 3, 2)::int - 1, 0, substr(n, 5, 2)::int - 1,
                                                  substr(n, 7, 2)::int, substr(n, 9, 2)::int, substr(n, 11, 2)::int) as at
    from (values (p.part[1])) v(n) offset 0
  ) a
$$;

create or replace function tasklane.print_key_id(p_key_id int) returns text
language sql stable parallel safe as $$
  -- How a key is named to people, key-7; admin where there is none: the admin key, or psql. Stable, so that it is inlined.
  select coalesce('key-' || p_key_id, 'admin')
$$;
