create or replace function tasklane.explain_batch(p_batch_id bigint)
returns table (status text, waiting int, running int, ahead int, eta_seconds float8, reason text)
language plpgsql stable set search_path = tasklane as $$
-- Why a batch is where it is. waiting and running are lines; ahead: batches that have not ended, were made before it, and share a lane with it;
-- eta_seconds: what is open at the rate of the last half minute to minute, null while that is not known and while something keeps its lines from
-- being answered (lane_causes). No row for an unknown batch.
#variable_conflict use_column
declare
  v_batch record;
  v_lane record;
  v_cause record;
  v_rate float8;
begin
  select b.status, b.paused, p.open, b.total, b.marks, b.ending, b.batch_id, b.expanded, b.completed + b.failed as ended into v_batch
  from batch b join batch_progress p using (batch_id) where b.batch_id = p_batch_id;
  if not found then
    return;
  end if;
  status := v_batch.status;
  select count(*) into running from running u cross join lateral (select t.batch_id from task t where t.id = u.id limit 1) t where t.batch_id = p_batch_id;
  waiting := greatest(0, v_batch.open - running);
  if v_batch.status = 'validating' then
    select count(*) into ahead from batch b where b.status = 'validating' and b.batch_id < p_batch_id;
  else
    select count(distinct o.batch_id) into ahead
    from batch_lane l join batch_lane o using (lane_id) where l.batch_id = p_batch_id and o.batch_id < p_batch_id;
  end if;
  if v_batch.status in ('in_progress', 'finalizing', 'cancelling') and v_batch.marks is not null and not v_batch.paused then
    v_rate := (v_batch.ended - (v_batch.marks #>> '{0,ended}')::int)
              / greatest(0.001, extract(epoch from now() - (v_batch.marks #>> '{0,at}')::timestamptz));
    eta_seconds := case when v_batch.open = 0 then 0 when v_rate > 0 then round((v_batch.open / v_rate)::numeric, 1) end;
  elsif v_batch.status in ('completed', 'failed', 'expired', 'cancelled') then
    eta_seconds := 0;
  end if;

  reason := case v_batch.status
    when 'validating' then case when ahead = 0 then 'its lines are being looked at' else format('%s batches are looked at before it', ahead) end
    when 'finalizing' then 'its files are being written'
    when 'cancelling' then 'its lines are being withdrawn, and its files written'
    when 'in_progress' then null
    else 'it has ended' end;
  if reason is null and v_batch.paused then
    reason := 'it is paused';
  elsif reason is null and v_batch.open > 0 then
    -- the lane with most to do
    select q.queue, l.level, l.lane_id,
           (select count(*) from batch_lane o where o.lane_id = l.lane_id) as batches,
           (select sum(s.waiting) from queue_stats s where s.queue_id = q.queue_id and s.level < l.level) as live
      into v_lane
    from batch_lane b join lane l using (lane_id) join queue q using (queue_id)
    where b.batch_id = p_batch_id order by b.all_released, b.lines desc limit 1;
    select c.rule, c.reason into v_cause from lane_causes(array[v_lane.lane_id]) c;
    reason := coalesce(v_cause.reason, case
      when v_lane.live > 0 then format('live work goes first: %s tasks wait in lower levels of queue %s', v_lane.live, v_lane.queue)
      when running = 0 and coalesce(v_rate, 0) = 0 then 'its lines are refused: ' || lane_refusal(v_lane.lane_id) end, case
      when v_lane.batches > 1 then format('it shares %s:%s with %s other batches, in turn', v_lane.queue, v_lane.level, v_lane.batches - 1)
      when running > 0 then 'its lines are being answered'
      else format('the workers of %s:%s are busy', v_lane.queue, v_lane.level) end);
    eta_seconds := case when v_cause.rule is null or v_cause.rule = 'limit' then eta_seconds end;
  elsif reason is null then
    reason := 'its last lines are being counted';
  end if;
  return next;
end
$$;

create or replace function tasklane.lane_refusal(p_lane_id int) returns text
language sql stable set search_path = tasklane as $$
  -- What was said last when a task of a lane was refused that is to be tried again soon; null where none was. Looks at the first thousand of all
  -- tasks that wait for a time.
  select h.reason || '; tried again ' || case when d.run_at > now() then 'in ' || print_span(d.run_at - now()) else 'at once' end
  from (select d.id, d.lane_id, d.run_at from deferred d order by d.due_at limit 1000) d
  cross join lateral (
    select h.reason, h.refusals, h.ended_at from task_attempt h where h.id = d.id order by h.ended_at desc, h.attempt desc limit 1
  ) h
  where d.lane_id = p_lane_id and h.refusals is not null order by h.ended_at desc limit 1
$$;
