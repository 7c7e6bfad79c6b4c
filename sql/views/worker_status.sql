create or replace view tasklane.worker_status as
select w.worker, w.name, w.host, tasklane.worker_state(w) as state, w.capacities, w.lanes, w.first_seen, w.last_seen, w.stopped_at, w.draining,
       w.upstreams, coalesce(u.running, 0) as running, coalesce(r.ended, 0) / 60.0 as rate
from tasklane.worker w
left join (select u.worker, count(*) as running from tasklane.running u group by u.worker) u using (worker)
left join (
  select r.worker, count(*) as ended from tasklane.result r where r.completed_at > now() - interval '60 seconds' and r.worker is not null and r.outcome in ('succeeded', 'failed') group by r.worker
) r using (worker);
comment on view tasklane.worker_status is
  'Who takes tasks: its state (active, draining, stopped, lost), in which lanes, what it runs, how many tasks a second it answered in the last minute, and how its upstreams are. select worker, state, lanes, running, upstreams from tasklane.worker_status order by last_seen desc;';
