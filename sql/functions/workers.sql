create or replace function tasklane.see_workers(p_workers text[], p_names text[], p_capacities text[], p_lanes text[])
returns table (worker text, draining boolean)
language sql set search_path = tasklane set lock_timeout = '1s' as $$
  -- Keeps what workers say of themselves, one element of each array a worker, and that they were seen now. A null leaves what was kept before; lanes
  -- are JSON arrays.
  -- Returns  a row a worker: whether it has been told to drain. Raises 55P03 when somebody holds one of them for a second.
  -- Touches  worker (insert, update; in the order of names, so that two callers can't wait for each other).
  insert into worker as w (worker, name, capacities, lanes)
  select i.worker, coalesce(i.name, ''), i.capacities::json, coalesce(array(select json_array_elements_text(i.lanes::json)), '{}')
  from (select distinct on (u.worker) u.* from unnest(p_workers, p_names, p_capacities, p_lanes) u(worker, name, capacities, lanes) order by u.worker) i
  on conflict (worker) do update set
    name = case when excluded.name = '' then w.name else excluded.name end,
    capacities = coalesce(excluded.capacities, w.capacities),
    lanes = case when excluded.lanes = '{}' then w.lanes else excluded.lanes end,
    last_seen = now()
  returning w.worker, w.draining
$$;

create or replace function tasklane.set_draining(p_worker text, p_draining boolean) returns text
language plpgsql set search_path = tasklane as $$
-- Tells a worker to drain: its takes give nothing from now on, so that it ends what it has and can stop. Or that it may go on:
-- select tasklane.set_draining('gpu-1', false); Servers that are not told so otherwise notice within 5 seconds.
-- Returns  its name. Raises TL404 for a worker that was never seen.
begin
  update worker set draining = p_draining where worker = p_worker;
  if not found then
    raise exception using errcode = 'TL404', message = format('unknown worker %s', to_json(p_worker));
  end if;
  perform notify_servers(json_build_object('drain', json_build_array(p_worker)));
  return p_worker;
end
$$;

create or replace function tasklane.forget_workers() returns void
language sql set search_path = tasklane as $$
  -- Forgets workers that were not seen for 7 days.
  delete from worker where last_seen < now() - interval '7 days'
$$;
