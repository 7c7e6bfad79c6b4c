create or replace view tasklane.task_status as
select tasklane.print_task_id(t.id, l.queue_id, l.level, t.mode) as task_id, q.queue, l.level,
       tasklane.task_state(t.id) as status,
       coalesce(r.attempt, u.attempt, d.attempt, tasklane.attempts_so_far(t.id, t.replayed_at)) as attempt, n.tenant, t.mode as response_mode,
       t.created_at, t.expires_at, coalesce(u.taken_at, r.taken_at) as taken_at, r.completed_at, r.status_code,
       coalesce(u.worker, r.worker) as worker, u.lease_until, t.trace_id, q.endpoint, t.callback_url, i.instance,
       tasklane.print_key_id(t.key_id) as ak, t.data, r.body, t.id, t.lane_id, t.tenant_id,
       case when r.id is not null
            then tasklane.result_envelope(r, tasklane.print_task_id(t.id, l.queue_id, l.level, t.mode)) end as result,
       tasklane.print_batch_id(t.batch_id) as batch_id, t.custom_id, 100 - t.rank as priority, t.metadata, d.run_at, t.replayed_at
from tasklane.task t
join tasklane.lane l using (lane_id)
join tasklane.queue q using (queue_id)
join tasklane.tenant n using (tenant_id)
left join tasklane.result r on r.id = t.id
left join tasklane.running u on u.id = t.id
left join tasklane.deferred d on d.id = t.id
left join tasklane.instance i on i.instance_id = t.instance_id;
comment on view tasklane.task_status is
  'Every task with its state, newest with: select task_id, queue, level, status from tasklane.task_status order by id desc limit 20;';
