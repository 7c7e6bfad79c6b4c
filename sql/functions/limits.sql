create or replace function tasklane.lock_limits(p_tenant_ids int[], p_queue_ids int[]) returns jsonb
language plpgsql set search_path = tasklane as $$
-- The limits that concern tasks of these tenants for these queues, and how much room each leaves: {"depth <queue_id>": tasks, "flight
-- <tenant_id>": tasks, "rate <tenant_id>": tasks a second}. Lines of batches wait in their batch, and take no room. Who is limited likewise waits until this transaction ends.
declare
  v_tenants int[] := array(select n.tenant_id from tenant n where n.tenant_id = any (p_tenant_ids)
                           and (n.max_in_flight is not null or n.puts_per_second is not null) order by 1);
  v_queues int[] := array(select q.queue_id from queue q where q.queue_id = any (p_queue_ids) and q.max_depth is not null order by 1);
begin
  if v_tenants = '{}' and v_queues = '{}' then
    return '{}';
  end if;
  perform pg_advisory_xact_lock(hashtext('tasklane.tenant'), n.tenant_id) from unnest(v_tenants) n(tenant_id);
  perform pg_advisory_xact_lock(hashtext('tasklane.max_depth'), q.queue_id) from unnest(v_queues) q(queue_id);
  -- Statements of their own: they see what was committed while we waited.
  return coalesce((
    select jsonb_object_agg(r.place, r.room) from (
      select 'rate ' || n.tenant_id as place, n.puts_per_second as room
      from tenant n where n.tenant_id = any (v_tenants) and n.puts_per_second is not null
      union all
      select 'flight ' || n.tenant_id, n.max_in_flight - (n.put_count - n.ended_count + coalesce(
               (select sum(y.put_count) - sum(y.ended_count) from lane_tally y where y.tenant_id = n.tenant_id), 0))
      from tenant n where n.tenant_id = any (v_tenants) and n.max_in_flight is not null
      union all
      select 'depth ' || q.queue_id, q.max_depth - (
        select coalesce(sum(l.put_count - l.ended_count - l.line_count + coalesce(
          (select sum(y.put_count) - sum(y.ended_count) from lane_tally y where y.lane_id = l.lane_id and y.tenant_id is not null), 0)), 0)
        from lane l where l.queue_id = q.queue_id)
        + case when exists (select from lane l join batch_lane b using (lane_id) where l.queue_id = q.queue_id)
               then (select count(*) from running u where u.queue_id = q.queue_id
                     and (select t.batch_id from task t where t.id = u.id limit 1) is null)
               else (select count(*) from running u where u.queue_id = q.queue_id) end
      from queue q where q.queue_id = any (v_queues)
    ) r), '{}');
end
$$;

create or replace function tasklane.spend_room(p_rooms jsonb, p_place text, p_count int,
                                               out rooms jsonb, out message text, out retry_after int)
language plpgsql set search_path = tasklane as $$
-- Takes room for p_count tasks from a limit of lock_limits: rooms is what is left. Where there is not enough: message and retry_after.
declare
  v_kind text := split_part(p_place, ' ', 1);
  v_number int := split_part(p_place, ' ', 2);
  v_room float8 := p_rooms -> p_place;
  v_wait float8;
begin
  rooms := p_rooms;
  if v_kind = 'rate' then
    v_wait := spend_rate(v_number, v_room, p_count);
    if v_wait > 0 then
      message := format('tenant %s may put %s tasks a second', to_json((select n.tenant from tenant n where n.tenant_id = v_number)), v_room);
      retry_after := least(ceil(v_wait), 2147483647);
    end if;
  elsif v_room < p_count then
    retry_after := 1;
    message := case v_kind
      when 'depth' then (select format('queue %s is full: max_depth is %s', to_json(q.queue), q.max_depth) from queue q where q.queue_id = v_number)
      else (select format('tenant %s has as many tasks in flight as it may: max_in_flight is %s', to_json(n.tenant), n.max_in_flight)
            from tenant n where n.tenant_id = v_number) end;
  else
    rooms := jsonb_set(p_rooms, array[p_place], to_jsonb(v_room - p_count));
  end if;
end
$$;

create or replace function tasklane.spend_rate(p_tenant_id int, p_per_second float8, p_count int) returns float8
language plpgsql set search_path = tasklane as $$
-- Lets p_count tasks of a tenant pass at p_per_second, with bursts of one second's worth; a call larger than that passes when
-- nothing was put for a second. The caller holds the tenant's lock. Returns 0, or the seconds to wait for.
-- The generic cell rate algorithm (ITU-T I.371): all that is kept is the time, in microseconds, at which what has passed would be paid for. In a
-- sequence, since a row updated by every put would be a chain of dead versions under a held snapshot.
declare
  v_name text := 'rate_' || p_tenant_id;
  v_now bigint := extract(epoch from clock_timestamp()) * 1000000;
  v_burst float8 := greatest(1, p_per_second);
  v_paid bigint;
  v_wait float8;
begin
  execute format('select greatest(last_value, $1) from %I', v_name) into v_paid using v_now;
  v_wait := (v_paid - v_now) / 1000000.0 + (least(p_count, v_burst) - v_burst) / p_per_second;
  if v_wait > 0.000001 then
    return v_wait;
  end if;
  -- Once in 30 years is as low as a rate needs to be, and what a bigint holds.
  perform setval(v_name::regclass, v_paid + ceil(p_count * 1000000.0 / greatest(p_per_second, 0.000000001))::bigint);
  return 0;
end
$$;
