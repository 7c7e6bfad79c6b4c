create or replace function tasklane.expire_tasks(p_ids bigint[])
returns table (id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language sql set search_path = tasklane set enable_seqscan = off as $$
  -- Ends those of the tasks whose deadline has passed and that have not ended. Returns these, as end_tasks does.
  select w.* from withdraw_tasks(array(select t.id from unnest(p_ids) i(id) cross join lateral (select * from task t where t.id = i.id limit 1) t where t.expires_at <= now()),
                                 'expired') w
$$;

create or replace function tasklane.expire_due(p_limit int default 1000)
returns table (id bigint, task_id text, lane text, mode tasklane.response_mode, instance_id int, has_callback boolean, limited boolean)
language plpgsql set search_path = tasklane set enable_seqscan = off as $$
-- Ends up to p_limit running and deferred tasks whose deadline has passed; waiting ones are sweep_ready's.
#variable_conflict use_column
begin
  return query
  select w.* from withdraw_tasks(array(
    (select r.id from running r where r.due_at <= now() and r.expires_at <= now() order by r.due_at limit p_limit)
    union all
    (select d.id from deferred d where d.due_at <= now() and d.expires_at <= now() order by d.due_at limit p_limit)), 'expired') w;
end
$$;

create or replace function tasklane.sweep_ready(
  inout p_lane_id int, inout p_rank smallint, inout p_id bigint, p_rows int default 5000,
  out expired bigint[]
) language plpgsql set search_path = tasklane set enable_seqscan = off set enable_bitmapscan = off as $$
-- Looks through the next p_rows waiting tasks after (lane, rank, id) for expired ones, without ending them: a walk in slices, since an
-- index by deadline would cost every put for what few tasks need.
-- Returns  where to go on (lane null: the walk is through) and the ids found, for expire_tasks.
begin
  with slice as materialized (
    select w.* from ready w where (w.lane_id, w.rank, w.id) > (p_lane_id, p_rank, p_id)
    order by w.lane_id, w.rank, w.id limit p_rows
  ), last as (
    select s.* from slice s order by s.lane_id desc, s.rank desc, s.id desc limit 1
  )
  select (select array_agg(s.id) from slice s where s.expires_at <= now()),
         l.lane_id, l.rank, l.id
    into expired, p_lane_id, p_rank, p_id
  from (select count(*) as n from slice) c left join last l on c.n = p_rows;
end
$$;
