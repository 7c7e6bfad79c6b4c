create or replace view tasklane.tenant_stats as
select n.tenant, n.max_in_flight, n.puts_per_second, n.put_count - n.ended_count + coalesce(y.in_flight, 0) as in_flight, n.created_at, n.tenant_id
from tasklane.tenant n
left join (
  select y.tenant_id, sum(y.put_count) - sum(y.ended_count) as in_flight from tasklane.lane_tally y group by y.tenant_id
) y using (tenant_id);
comment on view tasklane.tenant_stats is 'Tenants with their limits, and how many tasks of theirs have not ended.';
