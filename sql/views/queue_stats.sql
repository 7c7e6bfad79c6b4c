create or replace view tasklane.queue_stats as
select q.queue, l.level, q.endpoint, q.paused,
       -- What was put and has not ended, less what runs or is deferred: a count of ready would cost as much as the backlog is long.
       c.put_count - c.ended_count - c.running - c.deferred as waiting, c.deferred, c.running,
       c.put_count as total_put_cnt, c.ended_count as total_completed_cnt,
       (extract(epoch from now() - h.created_at) * 1000)::bigint as oldest_waiting_ms,
       q.queue_id, l.lane_id
from tasklane.queue q
join tasklane.lane l using (queue_id)
cross join lateral (
  select l.put_count + coalesce(sum(y.put_count), 0) as put_count, l.ended_count + coalesce(sum(y.ended_count), 0) as ended_count,
         (select count(*) from tasklane.running u where u.queue_id = q.queue_id and u.lane_id = l.lane_id) as running,
         (select count(*) from tasklane.deferred d where d.lane_id = l.lane_id) as deferred
  from tasklane.lane_tally y where y.lane_id = l.lane_id
) c
left join lateral (
  select t.created_at
  from tasklane.lane_ranks(l.lane_id) k(rank)
  cross join lateral (
    select w.id from tasklane.ready w where w.lane_id = l.lane_id and w.rank = k.rank order by w.lane_id, w.rank, w.id limit 1
  ) w
  join tasklane.task t on t.id = w.id
  order by w.id limit 1
) h on true
where q.deleted_at is null;
comment on view tasklane.queue_stats is
  'One row a lane: what waits, runs and was ever put or ended. select * from tasklane.queue_stats where waiting > 0 order by waiting desc;';
