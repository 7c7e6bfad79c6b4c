create or replace view tasklane.worker_status as
select w.worker, w.name, w.capacities, w.lanes, w.first_seen, w.last_seen, w.draining,
       coalesce(u.running, 0) as running, coalesce(r.ended, 0) / 60.0 as rate
from tasklane.worker w
left join (select u.worker, count(*) as running from tasklane.running u group by u.worker) u using (worker)
left join (
  select r.worker, count(*) as ended from tasklane.result r where r.completed_at > now() - interval '60 seconds' and r.worker is not null and r.outcome in ('succeeded', 'failed') group by r.worker
) r using (worker);
comment on view tasklane.worker_status is
  'Who takes tasks: when it was last seen, in which lanes, what it runs, and how many tasks a second it answered in the last minute. select * from tasklane.worker_status order by last_seen desc;';
