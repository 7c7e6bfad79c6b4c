create or replace function tasklane.set_tenant(p_tenant text, p_settings json) returns void
language plpgsql set search_path = tasklane as $$
-- Changes a tenant's limits; what is not named stays, null is no limit: max_in_flight (tasks that have not ended), puts_per_second.
-- select tasklane.set_tenant('default', '{"max_in_flight": 1000}');
-- Raises   TL404 for an unknown tenant, TL400 for a limit that can't be.
-- Touches  tenant (update), the sequence that keeps its rate (made, or set back when the rate changes).
declare
  s jsonb := p_settings;
  v_before tenant;
  v_after tenant;
begin
  select * into v_before from tenant where tenant = p_tenant for no key update;
  if not found then
    raise exception using errcode = 'TL404', message = format('unknown tenant %s', to_json(p_tenant));
  end if;
  if s ->> 'puts_per_second' is not null then
    -- Before the rate counts: a put that sees it must find the sequence.
    execute format('create sequence if not exists %I as bigint minvalue 0 start 0', 'rate_' || v_before.tenant_id);
  end if;
  update tenant n set
    max_in_flight = case when s ? 'max_in_flight' then (s ->> 'max_in_flight')::int else n.max_in_flight end,
    puts_per_second = case when s ? 'puts_per_second' then (s ->> 'puts_per_second')::float8 else n.puts_per_second end
  where n.tenant_id = v_before.tenant_id
  returning * into v_after;
  if v_after.puts_per_second is not null and v_after.puts_per_second is distinct from v_before.puts_per_second then
    perform setval(('rate_' || v_before.tenant_id)::regclass, 0, false);
  end if;
exception when check_violation or data_exception then
  raise exception using errcode = 'TL400', message = format('tenant %s can not be changed so: %s', to_json(p_tenant), sqlerrm);
end
$$;
