create or replace view tasklane.queue_stats as
select q.queue, l.level, q.endpoint, q.paused,
       -- What was put and has not ended, less what runs or is deferred: a count of ready would cost as much as the backlog is long.
       l.put_count + coalesce(y.put_count, 0) - l.ended_count - coalesce(y.ended_count, 0) - coalesce(u.running, 0) - coalesce(d.deferred, 0) as waiting,
       coalesce(d.deferred, 0) as deferred, coalesce(u.running, 0) as running,
       l.put_count + coalesce(y.put_count, 0) as total_put_cnt, l.ended_count + coalesce(y.ended_count, 0) as total_completed_cnt,
       (extract(epoch from now() - h.created_at) * 1000)::bigint as oldest_waiting_ms,
       q.queue_id, l.lane_id
from tasklane.queue q
join tasklane.lane l using (queue_id)
left join (
  select y.lane_id, sum(y.put_count) as put_count, sum(y.ended_count) as ended_count from tasklane.lane_tally y group by y.lane_id
) y using (lane_id)
left join (select u.lane_id, count(*) as running from tasklane.running u group by u.lane_id) u using (lane_id)
left join (select d.lane_id, count(*) as deferred from tasklane.deferred d group by d.lane_id) d using (lane_id)
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
