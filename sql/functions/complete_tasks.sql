create or replace function tasklane.complete_tasks(
  p_ids bigint[], p_attempts int[], p_status_codes int[], p_request_ids text[], p_bodies text[],
  p_teller int default null
) returns table (ord int, id bigint, verdict text, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean,
                 told boolean)
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
-- Ends running tasks with their workers' answers: one element of each array an answer. An attempt, where given, must be the one that
-- runs; null is whichever runs.
-- p_teller: the server that calls, if others are to be told with this commit of the ends that somebody may wait for there; for calls of few answers,
-- since commits that notify follow one another.
-- Returns  a row an answer, in order; told: other servers know (true or null). verdict: completed; repeated (this attempt, or none given, has ended the task with the same status and
--          body already: nothing to do); unknown; else why not: a state (waiting, running for a stale attempt, expired, …).
-- Touches  running (delete) and what end_tasks does. The first result of a task stays.
#variable_conflict use_column
declare
  v_ended result[];
  v_ords int[];  -- which answer ended each
  v_done bigint[];
  v_late bigint[];
begin
  with input as materialized (
    -- Of several answers for one attempt in one call the first counts, and the others are repeats. The bodies are read by place, as put_tasks does:
    -- carried along, twenty of 100 KB took 2.4 times as long.
    select distinct on (r.id) i.*
    from unnest(p_ids, p_attempts) with ordinality as i(id, attempt, ord)
    cross join lateral (select r.id, r.attempt from running r where r.id = i.id limit 1) r
    where i.attempt is null or i.attempt = r.attempt
    order by r.id, i.ord
  ), locked as materialized (
    -- In the order of ids, so that two callers with the same tasks can't wait for each other. Lateral with a lock can't be turned
    -- round: planned while running is known to be empty, a join would begin with all of it.
    select r.*, i.ord
    from (select * from input order by id) i
    cross join lateral (
      select * from running r where r.id = i.id and (i.attempt is null or i.attempt = r.attempt) for update
    ) r
  )
  select array_agg((l.id, now(), l.taken_at, case when p_status_codes[l.ord] between 200 and 299 then 'succeeded' else 'failed' end::outcome, l.attempt,
                    p_status_codes[l.ord], p_request_ids[l.ord], l.worker, p_bodies[l.ord]::json, null)::result order by l.id) filter (where l.expires_at > now()),
         coalesce(array_agg(l.ord order by l.id) filter (where l.expires_at > now()), '{}'),
         array_agg(l.id) filter (where l.expires_at > now()), array_agg(l.id) filter (where l.expires_at <= now())
    into v_ended, v_ords, v_done, v_late
  from locked l;

  -- A statement of its own: the one above can't see the new version of a row whose lease was extended while it waited for the lock.
  delete from running where id = any (v_done);

  if v_late is not null then
    perform expire_tasks(v_late);
  end if;

  -- No join of the answers with what end_tasks returns: with hash joins pinned off, 500 of each cost as much as all the rest.
  return query
  select v_ords[e.nth], e.id, 'completed', e.task_id, e.lane, e.mode, e.instance_id, e.has_callback, e.limited,
         case when p_teller is null then null
              when e.mode = 'streaming' then announce_ended(e.id, p_teller)
              when e.mode = 'blocking' and e.instance_id is distinct from p_teller then announce_answer(v_ended[e.nth], e.instance_id, p_teller) end
  from end_tasks(v_ended) e
  union all
  select i.ord::int, i.id, refusal(i.id, i.attempt, p_status_codes[i.ord], p_bodies[i.ord]), null, null, null, null, null, null, null
  from unnest(p_ids, p_attempts) with ordinality as i(id, attempt, ord)
  where i.ord <> all (v_ords)
  order by 1;
end
$$;

create or replace function tasklane.refusal(p_id bigint, p_attempt int, p_status_code int, p_body text) returns text
language plpgsql set search_path = tasklane
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
-- Why complete_tasks did not end a task: repeated, unknown, or the state it is in.
declare
  v_result result;
begin
  select * into v_result from result where id = p_id;
  if found and (p_attempt is null or p_attempt = v_result.attempt) and p_status_code = v_result.status_code
     and p_body = v_result.body::text then
    return 'repeated';
  end if;
  return coalesce(v_result.outcome::text, task_state(p_id), 'unknown');
end
$$;

create or replace function tasklane.task_state(p_id bigint) returns text
language sql stable set search_path = tasklane as $$
  -- Where a task's row is, as a word: its outcome, running, deferred or waiting; null when there is no such task.
  select coalesce(r.outcome::text, case when t.expires_at <= now() then 'expired' when u.id is not null then 'running'
                                        when d.id is not null then 'deferred' else 'waiting' end)
  from task t left join result r on r.id = t.id left join running u on u.id = t.id left join deferred d on d.id = t.id
  where t.id = p_id
$$;
