create or replace view tasklane.schedule_status as
select s.name, n.tenant, s.cron, s.timezone, s.enabled, s.missed, s.next_run, s.last_run, s.run_count, s.last_error
from tasklane.schedule s join tasklane.tenant n using (tenant_id);
comment on view tasklane.schedule_status is
  'One row a schedule, the next one due first with: select name, next_run, last_error from tasklane.schedule_status order by next_run; '
  'They are made and changed with /v1/schedules alone: when a cron expression is due is computed by the server, not in SQL.';
