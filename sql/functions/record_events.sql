create or replace function tasklane.recording() returns boolean
language sql stable set search_path = tasklane as $$
  -- Whether events are to be recorded: somebody follows them, or did not long ago.
  select recording_until > now() from event_feed
$$;

create or replace function tasklane.record_events(
  p_type tasklane.event_type, p_status text, p_ids bigint[], p_attempts int[], p_datas text[] default null
) returns void
language sql set search_path = tasklane as $$
  -- Records what happened to tasks, for those who follow events; p_status is the state they are in now. To be called when recording() says so, in
  -- the transaction in which it happens.
  insert into event_stage (id, attempt, type, status, data)
  select i.id, i.attempt, p_type, p_status, i.data::json
  from unnest(p_ids, p_attempts, p_datas) with ordinality as i(id, attempt, data, ord) order by i.ord
$$;
