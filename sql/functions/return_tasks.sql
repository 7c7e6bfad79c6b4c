create or replace function tasklane.return_tasks(p_ids bigint[], p_attempts int[])
returns table (id bigint, lane text, rank smallint)
language sql set search_path = tasklane set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
  -- Puts taken tasks back where they were, as if they had not been taken: the worker was gone before it got them.
  -- Returns  those that were still running under that attempt, and where they wait now.
  with gone as (
    delete from running where ctid = any (array(
      select r.ctid from unnest(p_ids, p_attempts) i(id, attempt)
      cross join lateral (select r.ctid from running r where r.id = i.id and r.attempt = i.attempt for update) r))
    returning *
  ), back as (
    insert into ready (id, expires_at, lane_id, attempt, rank)
    select g.id, g.expires_at, g.lane_id, g.attempt - 1, g.rank from gone g
  )
  select g.id, q.queue || ':' || l.level, g.rank
  from gone g join lane l using (lane_id) join queue q on q.queue_id = l.queue_id
$$;
