create or replace function tasklane.fold_batches() returns table (batch_id bigint, ended boolean)
language plpgsql set search_path = tasklane as $$
-- Adds what has ended since the last call to the counts of the batches, and numbers these lines in the order in which they are seen. One at a
-- time; a caller that waited sees all that was committed before it came.
-- Returns  the batches that this concerned; ended: all lines of one have, which is work for claim_batches.
-- Touches  batch_tally (delete), batch (update), batch_done (insert).
#variable_conflict use_column
declare
  v_sum record;
  v_batch batch;
  v_at int;
begin
  perform pg_advisory_xact_lock(hashtext('tasklane.fold_batches'));
  for v_sum in
    with gone as (
      delete from batch_tally returning *
    )
    select g.batch_id, sum(g.completed)::int as completed, sum(g.failed)::int as failed, sum(g.unanswered)::int as unanswered,
           (select array_agg(u.id order by u.id) from gone o cross join lateral unnest(o.ids) u(id) where o.batch_id = g.batch_id) as ids
    from gone g group by g.batch_id order by g.batch_id
  loop
    select * into v_batch from batch b where b.batch_id = v_sum.batch_id for no key update;
    v_at := v_batch.completed + v_batch.failed + v_batch.unanswered;
    insert into batch_done (batch_id, first, ids) values (v_sum.batch_id, v_at + 1, v_sum.ids);
    -- A rate is over half a minute at least: the older mark goes when the younger is that old.
    if v_batch.marks is null or (v_batch.marks #>> '{1,at}')::timestamptz < now() - interval '30 seconds' then
      v_batch.marks := json_build_array(coalesce(v_batch.marks -> 1, json_build_object('at', v_batch.in_progress_at, 'ended', 0)),
                                        json_build_object('at', now(), 'ended', v_at));
    end if;
    update batch b set completed = b.completed + v_sum.completed, failed = b.failed + v_sum.failed, unanswered = b.unanswered + v_sum.unanswered,
      marks = v_batch.marks
    where b.batch_id = v_sum.batch_id
    returning b.batch_id, b.expanded and b.completed + b.failed + b.unanswered >= b.total into batch_id, ended;
    return next;
  end loop;
end
$$;

create or replace function tasklane.end_lines(
  p_batch_id bigint, inout p_lane_id int, inout p_after bigint, p_limit int default 2000,
  out ended json
) language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Ends the lines of a batch that is cancelled or has expired, in slices: those after task p_after of lane p_lane_id (0 at first). Lines that are
-- moving at this moment are passed over: begin again while there are any.
-- Returns  where to go on (lane null: through), and whom of running tasks' lanes to tell, as end_tasks does.
-- Touches  batch_lane (a lock, so that no line comes into ready meanwhile) and what withdraw_tasks does.
#variable_conflict use_column
declare
  v_batch batch;
  v_slice bigint[];
  v_open bigint[];
  v_held bigint[];
begin
  select * into v_batch from batch b where b.batch_id = p_batch_id;
  select min(l.lane_id) into p_lane_id from batch_lane l where l.batch_id = p_batch_id and l.lane_id >= p_lane_id;
  if v_batch.ending is null or v_batch.ending not in ('cancelled', 'expired') or p_lane_id is null then
    p_lane_id := null;
    return;
  end if;
  perform from batch_lane l where l.batch_id = p_batch_id and l.lane_id = p_lane_id for update;

  v_slice := array(
    select t.id from task t where t.batch_id = p_batch_id and t.lane_id = p_lane_id and t.id > p_after
    order by t.batch_id, t.lane_id, t.id limit p_limit);
  v_open := array(select s.id from unnest(v_slice) s(id) where not exists (select from result r where r.id = s.id offset 0));
  select json_agg(json_build_object('lane', w.lane, 'limited', w.limited)) into ended
  from withdraw_tasks(v_open, v_batch.ending::text::outcome) w;
  -- What is nowhere has not been released; nobody can release it while we hold the lane.
  v_held := array(
    select o.id from unnest(v_open) o(id)
    where not exists (select from result r where r.id = o.id offset 0) and not exists (select from running u where u.id = o.id offset 0)
      and not exists (select from deferred d where d.id = o.id offset 0)
      and not exists (select from lane_ranks(p_lane_id) k(rank) join ready w on w.lane_id = p_lane_id and w.rank = k.rank and w.id = o.id offset 0));
  perform end_tasks(array(
    select (h.id, now(), null, v_batch.ending::text, 0, case v_batch.ending when 'expired' then 408 else 499 end, null, null, null, null)::result
    from unnest(v_held) h(id)));
  -- The batch's row is not touched here: whoever writes its files holds that, and then waits for the lanes.
  if cardinality(v_slice) = p_limit then
    p_after := v_slice[p_limit];
  else
    p_lane_id := p_lane_id + 1;
    p_after := 0;
  end if;
end
$$;

create or replace function tasklane.write_batch(p_batch_id bigint, p_limit int default 1000) returns boolean
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Writes the next lines of a batch whose lines have all ended into its output and error files, up to p_limit or 1 MiB, in the order of the
-- input; with the last of them the batch gets its files and its final status, and its webhooks are told.
-- The place up to which they are written moves in the same transaction: no line is missing, none is there twice.
-- Returns  whether there is more to write; null when there is nothing to write yet.
-- Touches  batch (update), file, file_chunk (insert), batch_lane (delete), and what announce_batch does.
#variable_conflict use_column
declare
  v_batch batch;
  v_page record;
begin
  select * into v_batch from batch b where b.batch_id = p_batch_id for update;
  if v_batch.ending is null or v_batch.status not in ('finalizing', 'cancelling') or not v_batch.expanded and v_batch.total > 0
     or v_batch.completed + v_batch.failed + v_batch.unanswered < v_batch.total then
    return null;
  end if;

  with page as materialized (
    select * from batch_lines(p_batch_id, batch_page(p_batch_id, v_batch.written_to, p_limit), 1024 * 1024)
  )
  select max(p.id) as last,
         string_agg(p.line || E'\n', '' order by p.id) filter (where p.is_output) as output,
         string_agg(p.line || E'\n', '' order by p.id) filter (where not p.is_output) as errors,
         array[sum(u.used[1]), sum(u.used[2]), sum(u.used[3]), sum(u.used[4]), sum(u.used[5])]::bigint[] as usage
    into v_page
  from page p left join lateral (select usage_of(p.body) as used where p.is_output offset 0) u on true;

  if v_page.output is not null then
    if v_batch.output_file is null then
      v_batch.output_file := begin_file(v_batch.tenant_id, print_batch_id(p_batch_id) || '_output.jsonl', 'batch_output');
    end if;
    perform append_chunk(v_batch.output_file, convert_to(v_page.output, 'UTF8'));
  end if;
  if v_page.errors is not null then
    if v_batch.error_file is null then
      v_batch.error_file := begin_file(v_batch.tenant_id, print_batch_id(p_batch_id) || '_error.jsonl', 'batch_output');
    end if;
    perform append_chunk(v_batch.error_file, convert_to(v_page.errors, 'UTF8'));
  end if;
  if v_page.last is not null then
    update batch b set written_to = v_page.last, output_file = v_batch.output_file, error_file = v_batch.error_file, worked_at = now(),
      usage = array(select v_batch.usage[n] + coalesce(v_page.usage[n], 0) from generate_series(1, 5) n)
    where b.batch_id = p_batch_id;
    return true;
  end if;

  perform finish_file(f.file_number, null, coalesce(v_batch.output_expires_seconds, 2592000))
  from unnest(array[v_batch.output_file, v_batch.error_file]) f(file_number) where f.file_number is not null;
  update batch b set status = b.ending,
    completed_at = case when b.ending = 'completed' then now() end,
    expired_at = case when b.ending = 'expired' then now() end,
    cancelled_at = case when b.ending = 'cancelled' then now() end
  where b.batch_id = p_batch_id;
  delete from batch_lane l where l.batch_id = p_batch_id;
  perform announce_batch(p_batch_id);
  return false;
end
$$;

create or replace function tasklane.announce_batch(p_batch_id bigint) returns void
language sql set search_path = tasklane as $$
  -- Tells the tenant's webhooks that a batch has ended, and how.
  select send_webhooks(b.tenant_id, 'batch.' || b.status, json_build_object('id', print_batch_id(b.batch_id))) from batch b where b.batch_id = p_batch_id
$$;

create or replace function tasklane.usage_of(p_body text) returns bigint[]
language plpgsql immutable set search_path = tasklane as $$
-- The tokens that an answer says it took: input, cached, output, reasoning, total, by the names of chat completions or of responses. Zeros
-- where it says nothing that can be read.
declare
  v_usage json;
begin
  begin
    v_usage := p_body::json -> 'usage';
  exception when data_exception then
    -- An escape that Postgres can't read, such as \u0000: not in what is asked for here.
    v_usage := regexp_replace(p_body, '\\u[0-9a-fA-F]{4}', '', 'g')::json -> 'usage';
  end;
  if v_usage is null or json_typeof(v_usage) <> 'object' then
    return '{0,0,0,0,0}';
  end if;
  return array[
    tokens(coalesce(v_usage ->> 'input_tokens', v_usage ->> 'prompt_tokens')),
    tokens(coalesce(v_usage #>> '{input_tokens_details,cached_tokens}', v_usage #>> '{prompt_tokens_details,cached_tokens}')),
    tokens(coalesce(v_usage ->> 'output_tokens', v_usage ->> 'completion_tokens')),
    tokens(coalesce(v_usage #>> '{output_tokens_details,reasoning_tokens}', v_usage #>> '{completion_tokens_details,reasoning_tokens}')),
    tokens(v_usage ->> 'total_tokens')];
exception when data_exception then
  return '{0,0,0,0,0}';
end
$$;

create or replace function tasklane.tokens(p_text text) returns bigint
language sql immutable parallel safe as $$
  -- A count of tokens; 0 for what is none.
  select case when p_text ~ '^[0-9]{1,15}$' then p_text::bigint else 0 end
$$;
