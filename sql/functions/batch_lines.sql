create or replace function tasklane.batch_page(p_batch_id bigint, p_after bigint, p_limit int) returns bigint[]
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- The next p_limit tasks of a batch after a task, in the order of its input.
begin
  return array(
    select n.id
    from (select distinct r.value::int as lane_id from batch b cross join lateral jsonb_each_text(b.routes) r where b.batch_id = p_batch_id) l
    cross join lateral (
      select t.id from task t where t.batch_id = p_batch_id and t.lane_id = l.lane_id and t.id > p_after
      order by t.batch_id, t.lane_id, t.id limit p_limit
    ) n
    order by n.id limit p_limit);
end
$$;

create or replace function tasklane.batch_lines(p_batch_id bigint, p_ids bigint[], p_bytes bigint)
returns table (ord int, id bigint, is_output boolean, line text, body text)
language plpgsql stable set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- What the output and error files of a batch say of its ended tasks, in the order given, as many as have p_bytes and one at least.
-- Returns  ord, the place in p_ids; is_output: it was answered with 2xx; line, without a line break; body, the answer.
#variable_conflict use_column
declare
  v_batch batch;
begin
  select * into v_batch from batch b where b.batch_id = p_batch_id;
  return query
  with sized as materialized (
    select i.id, i.ord::int, row_number() over (order by i.ord) as nth,
           sum(coalesce(octet_length(r.body::text), 0) + 300) over (order by i.ord) as bytes
    from unnest(p_ids) with ordinality as i(id, ord) cross join lateral (select r.body from result r where r.id = i.id limit 1) r
  )
  select s.ord, s.id, r.outcome = 'succeeded',
    '{"id":"batch_req_' || md5('batch_req_' || s.id) || '","custom_id":' || to_json(t.custom_id) || ','
    || case when r.body is not null then
         '"response":{"status_code":' || r.status_code || ',"request_id":'
         || to_json(coalesce(r.request_id, print_task_id(t.id, l.queue_id, l.level, t.mode)))
         -- White space that a worker left between the values must not break the line. (translate takes 2.6 times as long.)
         || ',"body":' || replace(replace(r.body::text, E'\n', ' '), E'\r', ' ') || '},"error":null}'
       else '"response":null,"error":' || line_error(r, v_batch) || '}' end,
    r.body::text
  from sized s
  cross join lateral (select * from result r where r.id = s.id limit 1) r
  cross join lateral (select * from task t where t.id = s.id limit 1) t
  cross join lateral (select * from lane l where l.lane_id = t.lane_id limit 1) l
  where s.nth = 1 or s.bytes <= p_bytes
  order by s.ord;
end
$$;

create or replace function tasklane.line_error(p_result tasklane.result, p_batch tasklane.batch) returns text
language sql stable set search_path = tasklane as $$
  -- Why a line has no answer, as the error file says it.
  select '{"code":' || to_json(e.code) || ',"message":' || to_json(e.message) || '}'
  from (values
    (p_result.outcome = 'expired' and p_result.completed_at >= p_batch.expires_at, 'batch_expired',
     'This request could not be executed before the completion window expired.'),
    (p_result.outcome = 'cancelled' and p_result.completed_at >= p_batch.cancelling_at, 'batch_cancelled',
     'This request was not executed before the batch was cancelled.'),
    (p_result.outcome = 'dead', 'attempts_exhausted', 'This request was tried as often as it may be, and got no answer.'),
    (p_result.outcome = 'expired', 'request_timeout', 'This request got no answer in time.'),
    (true, 'request_cancelled', 'This request was cancelled.')
  ) e(applies, code, message) where e.applies limit 1
$$;

create or replace function tasklane.batch_results(p_batch_id bigint, p_after int, p_limit int default 100, p_bytes bigint default 16777216)
returns table (place int, line text, more boolean)
language plpgsql stable set search_path = tasklane set enable_seqscan = off as $$
-- The lines of a batch that have ended, in the order in which they were seen to end, after the p_after first ones; up to p_limit or p_bytes,
-- and at least one where there is one.
-- Returns  place, to go on after; line, null where retention has removed its task; more: there are others behind the last of these.
#variable_conflict use_column
declare
  v_ids bigint[];
  v_places int[];
  v_ords int[];
  v_lines text[];
  v_through int;
begin
  select array_agg(k.id order by k.place), array_agg(k.place order by k.place) into v_ids, v_places
  from (
    select i.id, d.first + i.nth::int - 1 as place
    from batch_done d cross join lateral unnest(d.ids) with ordinality i(id, nth)
    where d.batch_id = p_batch_id
      and d.first >= coalesce((select o.first from batch_done o where o.batch_id = p_batch_id and o.first <= p_after + 1 order by o.first desc limit 1), 0)
      and d.first <= p_after + p_limit and d.first + i.nth - 1 > p_after
    order by 2 limit p_limit
  ) k;
  select array_agg(l.ord order by l.ord), array_agg(l.line order by l.ord) into v_ords, v_lines from batch_lines(p_batch_id, v_ids, p_bytes) l;
  -- What is behind the last line and has a result had no room; what has none is passed over.
  select min(i.ord) - 1 into v_through
  from unnest(v_ids) with ordinality i(id, ord) where i.ord > v_ords[cardinality(v_ords)] and exists (select from result r where r.id = i.id offset 0);
  v_through := coalesce(v_through, cardinality(v_ids));
  return query
  select v_places[n], v_lines[array_position(v_ords, n)],
         exists (select from batch_done d where d.batch_id = p_batch_id and d.first + cardinality(d.ids) - 1 > v_places[v_through])
  from generate_series(1, v_through) n order by n;
end
$$;

create or replace function tasklane.copy_failed_lines(p_batch_id bigint, p_file_number bigint, p_after bigint, p_limit int default 1000) returns bigint
language plpgsql set search_path = tasklane as $$
-- Writes the next lines of an ended batch that were not answered with 2xx into a file, as a batch's input has them; up to p_limit tasks or 4 MiB.
-- Returns  the task up to which it came; null: there are no more.
#variable_conflict use_column
declare
  v_endpoint text := (select b.endpoint from batch b where b.batch_id = p_batch_id);
  v_text text;
  v_last bigint;
begin
  with page as materialized (
    select i.id, i.ord, t.custom_id, t.data, r.outcome, sum(case when r.outcome <> 'succeeded' then octet_length(t.data::text) else 0 end) over (order by i.ord) as bytes
    from unnest(batch_page(p_batch_id, p_after, p_limit)) with ordinality i(id, ord)
    cross join lateral (select t.custom_id, t.data from task t where t.id = i.id limit 1) t
    left join lateral (select r.outcome from result r where r.id = i.id limit 1) r on true
  )
  select max(p.id),
         string_agg('{"custom_id":' || to_json(p.custom_id) || ',"method":"POST","url":' || to_json(v_endpoint)
                    || ',"body":' || replace(replace(p.data::text, E'\n', ' '), E'\r', ' ') || E'}\n', '' order by p.ord) filter (where p.outcome <> 'succeeded')
    into v_last, v_text
  from page p where p.ord = 1 or p.bytes <= 4 * 1024 * 1024;
  if v_text is not null then
    perform append_chunk(p_file_number, convert_to(v_text, 'UTF8'));
  end if;
  return v_last;
end
$$;
