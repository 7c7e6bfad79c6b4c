create or replace function tasklane.lane_causes(p_lane_ids int[] default null)
returns table (lane_id int, rule text, reason text)
language plpgsql stable set search_path = tasklane set jit = off as $$
-- What keeps tasks of lanes from being answered: a row for each lane that has a cause, of those given, or of all. rule is a word: paused,
-- no_worker, worker_lost, upstream_failing, upstream_refusing, limit; reason says it in a sentence. It goes by what workers say of themselves:
-- select l.queue, l.level, c.reason from tasklane.lane_causes() c join tasklane.queue_stats l using (lane_id);
-- Touches  worker, lane, queue, running (read).
#variable_conflict use_column
declare
  -- One that lives is seen every five seconds.
  v_silent interval := interval '20 seconds';
begin
  return query
  with asked as materialized (
    select l.lane_id, q.queue_id, q.queue, q.queue || ':' || l.level as lane, q.paused, q.max_running
    from lane l join queue q using (queue_id)
    where q.deleted_at is null and (p_lane_ids is null or l.lane_id = any (p_lane_ids))
  ), takers as materialized (
    select a.lane_id, worker_name(w) as name, worker_state(w) as state, w.last_seen,
           w.last_seen < now() - v_silent and w.stopped_at is null as is_silent, u.rule, u.since,
           format('the upstream %s of worker %s %s', u.url, worker_name(w), u.words) as words
    from worker w
    cross join lateral unnest(w.lanes) n(lane)
    join asked a on a.lane = n.lane
    left join lateral bad_upstream(w, a.queue) u on worker_state(w) = 'active'
  ), served as materialized (
    select t.lane_id,
           bool_or(t.state = 'active' and not t.is_silent) as is_served,
           bool_or(t.state = 'active' and not t.is_silent and t.rule is null) as is_well,
           (array_agg(t.rule order by t.rule, t.since) filter (where not t.is_silent and t.rule is not null))[1] as bad_rule,
           (array_agg(t.words order by t.rule, t.since) filter (where not t.is_silent and t.rule is not null))[1] as bad_words,
           (array_agg(t.name order by t.last_seen desc) filter (where t.is_silent))[1] as silent,
           max(t.last_seen) filter (where t.is_silent) as silent_since,
           (array_agg(t.name order by t.last_seen desc) filter (where t.state = 'draining' and not t.is_silent))[1] as draining,
           (array_agg(t.name order by t.last_seen desc) filter (where t.state = 'stopped'))[1] as stopped
    from takers t group by t.lane_id
  ), judged as (
    select a.*, s.silent, s.silent_since, s.draining, s.stopped, s.bad_words, b.busy,
           case when a.paused then 'paused'
                when s.is_served then case when not s.is_well then s.bad_rule when b.busy >= a.max_running then 'limit' end
                -- who takes without saying who it is shows by what it runs alone
                when exists (select from running u where u.queue_id = a.queue_id and u.lane_id = a.lane_id and u.worker is null) then null
                when s.silent is not null and s.draining is null then 'worker_lost'
                else 'no_worker' end as found
    from asked a
    left join served s on s.lane_id = a.lane_id
    cross join lateral (select count(*) as busy from running u where a.max_running is not null and u.queue_id = a.queue_id) b
  )
  select j.lane_id, j.found, case j.found
    when 'paused' then format('queue %s is paused', j.queue)
    when 'worker_lost' then format('its worker %s has not been seen for %s, and no other takes from %s', j.silent, print_span(now() - j.silent_since), j.lane)
    when 'no_worker' then format('no worker takes from %s', j.lane)
      || coalesce(': ' || j.draining || ' drains', ': ' || j.stopped || ' has stopped', '')
    when 'limit' then format('queue %s runs as many tasks as it may: %s of %s (max_running)', j.queue, j.busy, j.max_running)
    else j.bad_words end
  from judged j where j.found is not null;
end
$$;

create or replace function tasklane.bad_upstream(p_worker tasklane.worker, p_queue text)
returns table (rule text, since timestamptz, url text, words text)
language sql stable set search_path = tasklane as $$
  -- What is wrong with the upstreams to which a worker gives a queue's tasks: one row when it told of some and none of them is healthy, else none.
  -- url is the worst one's, and words say what it does since when.
  with told as (
    select e.value ->> 'url' as url, e.value ->> 'state' as state, to_timestamp((e.value ->> 'since')::float8 / 1000) as since,
           (e.value ->> 'status')::int as status, nullif(regexp_replace(e.value ->> 'message', '\s+', ' ', 'g'), '') as message
    from json_array_elements(p_worker.upstreams) e
    where e.value ->> 'queues' is null or exists (select from json_array_elements_text(e.value -> 'queues') n where n.value = p_queue)
  )
  select case t.state when 'refusing' then 'upstream_refusing' else 'upstream_failing' end, t.since, t.url,
         concat(case when t.status is not null then 'answers ' || t.status
                     when t.state = 'away' then 'does not answer' when t.state = 'refusing' then 'refuses' else 'fails' end,
                ' "' || t.message || '"', ' since ', print_clock(t.since))
  from told t where not exists (select from told h where h.state = 'healthy') order by t.state = 'refusing', t.since limit 1
$$;

create or replace function tasklane.worker_name(p_worker tasklane.worker) returns text
language sql stable parallel safe as $$
  -- How a worker is called: by its name, if it has one.
  select coalesce(nullif(p_worker.name, ''), p_worker.worker)
$$;

create or replace function tasklane.print_clock(p_at timestamptz) returns text
language sql stable parallel safe as $$
  -- A time of day in UTC; with its date when it is not today's.
  select to_char(p_at at time zone 'UTC', case when p_at > now() - interval '12 hours' then '' else 'YYYY-MM-DD ' end || 'HH24:MI') || ' UTC'
$$;

create or replace function tasklane.print_span(p_span interval) returns text
language sql stable parallel safe as $$
  -- A time span as people say it: 45s, 3m, 1h 5m, 2d 4h.
  select case when s < 60 then s || 's' when s < 3600 then s / 60 || 'm'
              when s < 86400 then concat_ws(' ', s / 3600 || 'h', nullif(s % 3600 / 60, 0) || 'm')
              else concat_ws(' ', s / 86400 || 'd', nullif(s % 86400 / 3600, 0) || 'h') end
  from (select greatest(0, round(extract(epoch from p_span)))::bigint as s) v
$$;
