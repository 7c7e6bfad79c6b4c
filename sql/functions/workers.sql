create or replace function tasklane.see_workers(
  p_workers text[], p_names text[], p_capacities text[], p_lanes text[], p_hosts text[] default null, p_upstreams text[] default null,
  p_stopping boolean[] default null, p_asked_ago float8[] default null
) returns table (worker text, draining boolean)
language sql set search_path = tasklane set lock_timeout = '1s' as $$
  -- Keeps what workers say of themselves, one element of each array a worker, and that they were seen now. A null leaves what was kept before; lanes
  -- and upstreams are JSON arrays. p_stopping true: it says good-bye. p_asked_ago: how many seconds ago it last asked for tasks; one that did so
  -- after its good-bye is back.
  -- Returns  a row a worker: whether it has been told to drain. Raises 55P03 when somebody holds one of them for a second.
  -- Touches  worker (insert, update; in the order of names, so that two callers can't wait for each other).
  insert into worker as w (worker, name, capacities, lanes, host, upstreams, stopped_at)
  select i.worker, coalesce(i.name, ''), i.capacities::json, coalesce(array(select json_array_elements_text(i.lanes::json)), '{}'),
         coalesce(i.host, ''), i.upstreams::json, case when i.stopping then now() end
  from (select distinct on (u.worker) u.*
        from unnest(p_workers, p_names, p_capacities, p_lanes, p_hosts, p_upstreams, p_stopping) u(worker, name, capacities, lanes, host, upstreams, stopping)
        order by u.worker) i
  on conflict (worker) do update set
    name = case when excluded.name = '' then w.name else excluded.name end,
    capacities = coalesce(excluded.capacities, w.capacities),
    lanes = case when excluded.lanes = '{}' then w.lanes else excluded.lanes end,
    host = case when excluded.host = '' then w.host else excluded.host end,
    upstreams = coalesce(excluded.upstreams, w.upstreams),
    stopped_at = case
      when excluded.stopped_at is not null then coalesce(w.stopped_at, excluded.stopped_at)
      when w.stopped_at < now() - make_interval(secs => p_asked_ago[array_position(p_workers, excluded.worker)]) then null
      else w.stopped_at end,
    last_seen = now()
  returning w.worker, w.draining
$$;

create or replace function tasklane.worker_state(p_worker tasklane.worker) returns text
language sql stable parallel safe as $$
  -- stopped: it said good-bye. lost: it has not been seen for 45 seconds. draining: it was told to take nothing more. Else active.
  select case when p_worker.stopped_at is not null then 'stopped'
              when p_worker.last_seen < now() - interval '45 seconds' then 'lost'
              when p_worker.draining then 'draining' else 'active' end
$$;

create or replace function tasklane.set_draining(p_worker text, p_draining boolean) returns setof text
language plpgsql set search_path = tasklane as $$
-- Tells a worker to drain: its takes give nothing from now on, so that it ends what it has and can stop. Or that it may go on:
-- select tasklane.set_draining('gpu-1', false); Servers that are not told so otherwise notice within 5 seconds.
-- p_worker is its id. Where no worker has that id, it is a name: of all workers of that name that are not stopped or lost.
-- Returns  the ids. Raises TL404 when there is none.
declare
  v_ids text[] := array(select w.worker from worker w where w.worker = p_worker);
begin
  if v_ids = '{}' then
    v_ids := array(select w.worker from worker w where w.name = p_worker and worker_state(w) in ('active', 'draining') order by w.worker);
  end if;
  if v_ids = '{}' then
    raise exception using errcode = 'TL404', message = format('unknown worker %s', to_json(p_worker))
      || case when exists (select from worker w where w.name = p_worker) then ': those of this name are stopped or lost' else '' end;
  end if;
  update worker w set draining = p_draining
  from (select l.worker from worker l where l.worker = any (v_ids) order by l.worker for update) l where w.worker = l.worker;
  perform notify_servers(json_build_object('drain', to_json(v_ids)));
  return query select unnest(v_ids);
end
$$;

create or replace function tasklane.forget_workers() returns void
language sql set search_path = tasklane as $$
  -- Forgets workers that are stopped or lost, an hour after they were last seen.
  delete from worker where last_seen < now() - interval '1 hour'
$$;
