create or replace function tasklane.try_write(p_instance text) returns void
language plpgsql set search_path = tasklane set lock_timeout = '1s' as $$
-- Whether a put would be written now: asks for the locks that puts, takes and ends need, and writes as little as can be, so that the commit
-- waits for what every commit waits for.
-- Raises   lock_not_available (55P03) when somebody holds one of these tables for longer than a second.
-- Touches  this server's row in instance.
begin
  lock table only tenant, only queue, only lane, only task, only ready, only running, only deferred, only result, only lane_tally in row exclusive mode;
  update instance set seen_at = now() where instance = p_instance;
end
$$;

create or replace function tasklane.blocked_sessions()
returns table (pid int, application text, standby boolean, relation text, seconds float8, holder_pid int, holder text, holder_state text, holder_since timestamptz)
language sql stable set search_path = pg_catalog as $$
  -- Sessions in this database that wait for a lock, or whose commit waits for a synchronous standby (standby); longest first, at most 100. relation: the
  -- table that is waited for, null for a row of one. holder: whoever has it, by application or user; null where that can't be seen.
  select a.pid, a.application_name, a.wait_event = 'SyncRep', w.relation, extract(epoch from clock_timestamp() - coalesce(w.since, a.query_start))::float8,
         h.pid, coalesce(nullif(h.application_name, ''), h.usename::text), h.state, h.xact_start
  from pg_stat_activity a
  left join lateral (
    select case when l.database = (select d.oid from pg_database d where d.datname = current_database()) then l.relation::regclass::text end as relation,
           l.waitstart as since
    from pg_locks l where l.pid = a.pid and not l.granted limit 1
  ) w on a.wait_event_type = 'Lock'
  left join lateral (
    select b.* from unnest(pg_blocking_pids(a.pid)) p(pid) join pg_stat_activity b using (pid)
    -- Who only waits before it, in the same line, is not to blame.
    order by b.wait_event_type is not distinct from 'Lock', b.xact_start limit 1
  ) h on a.wait_event_type = 'Lock'
  where a.datname = current_database() and (a.wait_event_type = 'Lock' or a.wait_event = 'SyncRep')
  order by 5 desc nulls last limit 100
$$;
