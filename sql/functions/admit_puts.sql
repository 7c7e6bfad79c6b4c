create or replace function tasklane.admit_puts(
  p_groups int[], p_tenant_ids int[], p_queues text[], p_endpoints text[], p_levels int[], p_modes text[], p_timeouts int[],
  p_data text[], p_models text[], p_options text[], p_key_seconds int, p_limited boolean
) returns table (ids bigint[], repeated text[], codes text[], messages text[], retry_afters int[])
language plpgsql set search_path = tasklane set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
-- What put_tasks asks before it puts tasks with options, or while some queue or tenant has a limit (p_limited); the other arguments are its own.
-- Returns  one row of arrays, an element an item: the id that it must get (its key is claimed for it in this transaction); or the printed id of the task
--          that its key has put before, which id then is; or why not: TL400 (a run_at that can't be), TL409 (its key was used for another
--          body; the message names the task), TL429 (over a limit; retry_after in seconds). Items that must only be put have nulls.
-- Raises   TL500 when a group repeats a key of another group of the call that is refused: put them apart.
-- Touches  idempotency_key (insert; waits for others that claim the same key). Puts into queues with max_depth, and of tenants with a
--          limit, wait for each other until their commits, which makes limits exact.
#variable_conflict use_column
declare
  v_count int := cardinality(p_groups);
  v_bad boolean[] := '{}';                              -- by group
  v_codes text[] := array_fill(null::text, array[v_count]);
  v_repeated text[] := v_codes;
  v_queue_ids int[];
  v_keys text[];
  v_hashes text[];
  v_messages text[];
  v_flags boolean[];                                    -- by item
  v_ids bigint[] := array_fill(null::bigint, array[v_count]);
  v_afters int[] := array_fill(null::int, array[v_count]);
  v_claimed bigint[];
  v_made bigint[];
  v_ords int[];
  v_asked int;                                          -- items with a key
  v_found record;
  v_rooms jsonb;
  v_left jsonb;                                         -- by the groups before this one
  v_group int;
  v_need record;
begin
  with checked as materialized (
    select i.ord, i.grp, i.tenant_id, i.key, i.body_hash, i.queue_id, i.message,
           -- What has no route is refused by put_tasks itself; nothing of its group may claim a key or count.
           bool_or(i.lost or i.message is not null) over (partition by i.grp) as bad
    from (
      select u.ord, p_groups[u.ord] as grp, p_tenant_ids[u.ord] as tenant_id, f.queue_id, f.code is not null as lost,
             o.option ->> 'idempotency_key' as key, o.option ->> 'body_hash' as body_hash,
             case when o.run_at > now() + interval '366 days' then 'run_at: at most 366 days ahead'
                  when p_modes[u.ord] <> 'callback' and o.run_at >= now() + make_interval(secs => p_timeouts[u.ord]) then
                    format('run_at: the client waits %s s and would be gone by then', p_timeouts[u.ord]) end as message
      from generate_series(1, v_count) u(ord)
      cross join lateral find_route(
        p_queues[u.ord], p_endpoints[u.ord],
        case when p_queues[u.ord] is null then case when p_models is null then p_data[u.ord]::json ->> 'model' else p_models[u.ord] end end
      ) f
      cross join lateral (select p_options[u.ord]::json as option, run_at_of(p_options[u.ord]::json) as run_at offset 0) o
    ) i
  ), asked as materialized (
    select distinct on (c.tenant_id, c.key) c.ord, c.tenant_id, c.key, c.body_hash, c.queue_id
    from checked c where c.key is not null and not c.bad
    order by c.tenant_id, c.key, c.ord
  ), made as materialized (
    select a.*, new_task_id() as id from asked a
  ), claimed as (
    insert into idempotency_key as k (tenant_id, idempotency_key, body_hash, id, task_id, expires_at)
    select m.tenant_id, m.key, decode(m.body_hash, 'hex'), m.id,
           print_task_id(m.id, m.queue_id, p_levels[m.ord], p_modes[m.ord]::response_mode), now() + make_interval(secs => p_key_seconds)
    -- In the order of keys, so that two callers with the same ones can't wait for each other.
    from made m order by m.tenant_id, m.key
    on conflict (tenant_id, idempotency_key) do update
      set body_hash = excluded.body_hash, id = excluded.id, task_id = excluded.task_id, expires_at = excluded.expires_at
      where k.expires_at <= now()
    returning k.id
  )
  select array_agg(c.queue_id order by c.ord), array_agg(c.key order by c.ord), array_agg(c.body_hash order by c.ord),
         array_agg(c.message order by c.ord), array_agg(c.bad order by c.ord), count(c.key) filter (where not c.bad),
         (select coalesce(array_agg(k.id), '{}') from claimed k), (select array_agg(m.id order by m.ord) from made m), (select array_agg(m.ord order by m.ord) from made m)
    into v_queue_ids, v_keys, v_hashes, v_messages, v_flags, v_asked, v_claimed, v_made, v_ords
  from checked c;
  for n in 1..coalesce(cardinality(v_ords), 0) loop
    v_ids[v_ords[n]] := v_made[n];
  end loop;
  if true = any (v_flags) then
    for n in 1..v_count loop
      if v_flags[n] then
        v_bad[p_groups[n]] := true;
        v_codes[n] := case when v_messages[n] is not null then 'TL400' end;
      end if;
    end loop;
  end if;

  -- Who could not claim its key is told who did. A statement of its own: it sees what those committed whom the claims waited for.
  if cardinality(v_claimed) < v_asked then
    for v_found in
      select u.ord, u.grp, k.id, k.task_id, k.body_hash = decode(u.hash, 'hex') as same,
             k.id = any (v_claimed) and row_number() over (partition by k.id order by u.ord) = 1 as mine
      from unnest(p_tenant_ids, v_keys, v_hashes, p_groups) with ordinality as u(tenant_id, key, hash, grp, ord)
      cross join lateral (select * from idempotency_key k where k.tenant_id = u.tenant_id and k.idempotency_key = u.key limit 1) k
      where u.key is not null and v_bad[u.grp] is not true
    loop
      v_ids[v_found.ord] := v_found.id;
      if not v_found.same then
        v_codes[v_found.ord] := 'TL409';
        v_messages[v_found.ord] := format('this idempotency key was used for another body, by %s', v_found.task_id);
        v_bad[v_found.grp] := true;
      elsif not v_found.mine then
        v_repeated[v_found.ord] := v_found.task_id;
      end if;
    end loop;
  end if;

  if p_limited then
    v_rooms := lock_limits(p_tenant_ids, v_queue_ids);
    for v_need in
      select c.grp, c.place, c.ords, cardinality(c.ords) as count
      from (
        select u.grp, x.place, array_agg(u.ord::int order by u.ord) as ords
        from unnest(p_groups, p_tenant_ids, v_queue_ids, v_repeated) with ordinality as u(grp, tenant_id, queue_id, repeated, ord)
        -- the rate last: what it lets pass is spent
        cross join lateral (values ('depth ' || u.queue_id), ('flight ' || u.tenant_id), ('rate ' || u.tenant_id)) x(place)
        where v_bad[u.grp] is not true and u.repeated is null and v_rooms ? x.place
        group by u.grp, x.place
      ) c
      order by c.grp, c.place
    loop
      continue when v_bad[v_need.grp] is true;
      if v_need.grp is distinct from v_group then
        v_group := v_need.grp;
        v_left := v_rooms;
      end if;
      select * into v_found from spend_room(v_rooms, v_need.place, v_need.count);
      v_rooms := v_found.rooms;
      if v_found.message is not null then
        v_rooms := v_left;
        v_bad[v_need.grp] := true;
        v_codes[v_need.ords[1]] := 'TL429';
        v_messages[v_need.ords[1]] := v_found.message;
        v_afters[v_need.ords[1]] := v_found.retry_after;
      end if;
    end loop;
  end if;

  if v_claimed <> '{}' and true = any (v_bad) then
    -- f claimed the key and is refused; o repeats it, or is refused only since f's body was another.
    if exists (select from unnest(p_groups, v_ids, v_repeated, v_codes) o(grp, id, repeated, code)
               join unnest(p_groups, v_ids, v_repeated, v_codes) f(grp, id, repeated, code)
                 on f.id = o.id and f.grp <> o.grp and f.repeated is null and f.code is distinct from 'TL409' and v_bad[f.grp]
               where (o.repeated is not null and v_bad[o.grp] is not true or o.code = 'TL409') and o.id = any (v_claimed)) then
      raise exception using errcode = 'TL500', message = 'a key of this call is repeated in another group, and refused there';
    end if;
    delete from idempotency_key k using unnest(p_groups, p_tenant_ids, v_keys, v_ids) u(grp, tenant_id, key, id)
    where v_bad[u.grp] and u.id = any (v_claimed) and k.tenant_id = u.tenant_id and k.idempotency_key = u.key and k.id = u.id;
  end if;

  return query select v_ids, v_repeated, v_codes, v_messages, v_afters;
end
$$;
