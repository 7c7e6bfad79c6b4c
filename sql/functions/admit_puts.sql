create or replace function tasklane.admit_puts(
  p_groups int[], p_tenant_ids int[], p_queues text[], p_endpoints text[], p_levels int[], p_modes text[], p_timeouts int[],
  p_data text[], p_models text[], p_options text[], p_key_seconds int
) returns table (ids bigint[], repeated text[], codes text[], messages text[], retry_afters int[])
language plpgsql set search_path = tasklane set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
-- What put_tasks asks before it puts tasks with options, or while some queue or tenant has a limit; the arguments are its own.
-- Returns  one row of arrays, an element an item: the id that it must get (its key is claimed for it in this transaction); or the printed id of the task
--          that its key has put before, which id then is; or why not: TL400 (a run_at that can't be), TL409 (its key was used for another
--          body; the message names the task), TL429 (over a limit; retry_after in seconds). Items that must only be put have nulls.
-- Raises   TL500 when a group repeats a key of another group of the call that is refused: put them apart.
-- Touches  idempotency_key (insert; waits for others that claim the same key). Puts into queues with max_depth, and of tenants with a
--          limit, wait for each other until their commits, which makes limits exact.
#variable_conflict use_column
declare
  v_count int := cardinality(p_groups);
  v_queue_ids int[];
  v_bad boolean[] := '{}';                              -- by group
  v_keys text[] := array_fill(null::text, array[v_count]);
  v_hashes text[] := v_keys;
  v_codes text[] := v_keys;
  v_messages text[] := v_keys;
  v_repeated text[] := v_keys;
  v_ids bigint[] := array_fill(null::bigint, array[v_count]);
  v_afters int[] := array_fill(null::int, array[v_count]);
  v_claimed bigint[];
  v_made bigint[];
  v_ords int[];
  v_asked int := 0;                                     -- items with a key
  v_option json;
  v_run_at timestamptz;
  v_found record;
  v_rooms jsonb;
  v_left jsonb;                                         -- by the groups before this one
  v_group int;
  v_need record;
begin
  select array_agg(f.queue_id order by i.ord), array_agg(coalesce(f.code is not null, false) order by i.ord)
    into v_queue_ids, v_bad
  from (
    select u.ord, u.queue, u.endpoint,
           case when u.queue is not null then null when p_models is null then u.data::json ->> 'model' else u.model end as model
    from unnest(p_queues, p_endpoints, p_data, p_models) with ordinality as u(queue, endpoint, data, model, ord)
  ) i
  cross join lateral find_route(i.queue, i.endpoint, i.model) f;
  -- What has no route is refused by put_tasks itself; nothing of its group may claim a key or count.
  v_bad := bad_groups(p_groups, v_bad);

  for n in 1..v_count loop
    continue when p_options[n] is null;
    v_option := p_options[n];
    v_run_at := run_at_of(v_option);
    v_keys[n] := v_option ->> 'idempotency_key';
    v_hashes[n] := v_option ->> 'body_hash';
    v_asked := v_asked + (v_keys[n] is not null)::int;
    if v_run_at > now() + interval '366 days' then
      v_codes[n] := 'TL400';
      v_messages[n] := 'run_at: at most 366 days ahead';
    elsif p_modes[n] <> 'callback' and v_run_at >= now() + make_interval(secs => p_timeouts[n]) then
      v_codes[n] := 'TL400';
      v_messages[n] := format('run_at: the client waits %s s and would be gone by then', p_timeouts[n]);
    end if;
    if v_codes[n] is not null then
      v_bad[p_groups[n]] := true;
    end if;
  end loop;

  if v_asked > 0 then
    with asked as materialized (
      select distinct on (u.tenant_id, u.key) u.*
      from unnest(p_tenant_ids, v_keys, v_hashes, v_queue_ids, p_levels, p_modes, p_groups)
        with ordinality as u(tenant_id, key, hash, queue_id, level, mode, grp, ord)
      where u.key is not null and v_bad[u.grp] is not true
      -- In the order of keys, so that two callers with the same ones can't wait for each other.
      order by u.tenant_id, u.key, u.ord
    ), made as materialized (
      select a.*, new_task_id() as id from asked a
    ), claimed as (
      insert into idempotency_key as k (tenant_id, idempotency_key, body_hash, id, task_id, expires_at)
      select m.tenant_id, m.key, decode(m.hash, 'hex'), m.id, print_task_id(m.id, m.queue_id, m.level, m.mode::response_mode),
             now() + make_interval(secs => p_key_seconds)
      from made m order by m.tenant_id, m.key
      on conflict (tenant_id, idempotency_key) do update
        set body_hash = excluded.body_hash, id = excluded.id, task_id = excluded.task_id, expires_at = excluded.expires_at
        where k.expires_at <= now()
      returning k.id
    )
    select coalesce((select array_agg(c.id) from claimed c), '{}'), array_agg(m.id), array_agg(m.ord) into v_claimed, v_made, v_ords from made m;
    for n in 1..coalesce(cardinality(v_ords), 0) loop
      v_ids[v_ords[n]] := v_made[n];
    end loop;

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
  end if;

  v_rooms := lock_limits(p_tenant_ids, v_queue_ids);
  if v_rooms <> '{}' then
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

create or replace function tasklane.bad_groups(p_groups int[], p_bad boolean[]) returns boolean[]
language plpgsql immutable as $$
-- By group, whether something of it is bad; null: nothing.
declare
  v_bad boolean[] := '{}';
begin
  for n in 1..cardinality(p_groups) loop
    if p_bad[n] then
      v_bad[p_groups[n]] := true;
    end if;
  end loop;
  return v_bad;
end
$$;
