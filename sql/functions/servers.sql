create or replace function tasklane.notify_many(p_messages text[]) returns void
language sql as $$
  -- Sends messages to all servers (see notify_servers). Not flushed to disk: a notifying commit holds a lock of the whole
  -- cluster while it flushes, and a message that a crash loses is only late, since servers look for themselves as well.
  select set_config('synchronous_commit', 'off', true), pg_notify('tasklane', m) from unnest(p_messages) m;
$$;

create or replace function tasklane.beat_instance(p_instance text, p_answer_channel text default null) returns table (instance_id int, others int)
language plpgsql set search_path = tasklane as $$
-- A server's sign of life. p_answer_channel: where it hears of answers to its clients, when it starts.
-- Returns its number, and how many other servers gave one within the last 15 seconds.
#variable_conflict use_column
begin
  insert into instance as i (instance, answer_channel) values (p_instance, p_answer_channel)
  on conflict (instance) do update set seen_at = now(), started_at = case when p_answer_channel is null then i.started_at else now() end,
    answer_channel = coalesce(p_answer_channel, i.answer_channel);
  return query
  select i.instance_id, (select count(*)::int from instance o where o.instance <> p_instance and o.seen_at > now() - interval '15 seconds')
  from instance i where i.instance = p_instance;
end
$$;

create or replace function tasklane.leave_instance(p_instance text) returns void
language sql set search_path = tasklane as $$
  -- A server's good-bye: others need not tell it anything any more.
  update instance set seen_at = '-infinity' where instance = p_instance
$$;
