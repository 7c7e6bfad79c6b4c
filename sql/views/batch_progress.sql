create or replace view tasklane.batch_progress as
select tasklane.print_batch_id(b.batch_id) as id, n.tenant, b.status, b.paused, b.endpoint, b.model, b.total,
       b.completed + coalesce(y.completed, 0) as completed, b.failed + coalesce(y.failed, 0) as failed,
       b.total - b.completed - b.failed - b.unanswered - coalesce(y.completed + y.failed + y.unanswered, 0) as open,
       b.created_at, b.expires_at, b.in_progress_at, b.finalizing_at, b.completed_at, b.failed_at, b.expired_at, b.cancelling_at, b.cancelled_at,
       b.input_file_id, o.file_id as output_file_id, e.file_id as error_file_id, b.completion_window, b.metadata, b.errors, b.usage,
       tasklane.print_batch_id(b.retry_of) as retry_of, b.batch_id, b.tenant_id
from tasklane.batch b
join tasklane.tenant n using (tenant_id)
left join lateral (
  select sum(t.completed)::int as completed, sum(t.failed)::int as failed, sum(t.unanswered)::int as unanswered
  from tasklane.batch_tally t where t.batch_id = b.batch_id
) y on true
left join tasklane.file o on o.file_number = b.output_file and o.ready
left join tasklane.file e on e.file_number = b.error_file and e.ready;
comment on view tasklane.batch_progress is
  'Every batch with its counts, true at this moment: select id, status, completed, failed, total from tasklane.batch_progress order by batch_id desc limit 20;';
