create or replace view tasklane.dead_task as
select tasklane.print_task_id(t.id, l.queue_id, l.level, t.mode) as task_id, q.queue, l.level, r.attempt, r.completed_at, r.worker, t.data, t.id
from tasklane.result r
join tasklane.task t using (id)
join tasklane.lane l using (lane_id)
join tasklane.queue q using (queue_id)
where r.outcome = 'dead';
comment on view tasklane.dead_task is 'Tasks that ran out of attempts, kept for inspection.';
