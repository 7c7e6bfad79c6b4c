create or replace function tasklane.find_route(p_queue text, p_endpoint text, p_model text)
returns table (queue_id int, queue text, code text, message text)
language sql stable as $$
  -- Which queue a task goes to: the one it names; else its (endpoint, model)'s channel; else a queue of the model's name
  -- registered for that endpoint. Without an endpoint (psql), the queue's own counts.
  -- Returns  one row: the queue, or code TL404 (unknown queue), TL400 (no route, or another endpoint) and message.
  select q.queue_id, q.queue,
    case when q.queue_id is null and p_queue is not null then 'TL404'
         when q.queue_id is null or q.endpoint <> p_endpoint then 'TL400' end,
    case when q.queue_id is null and p_queue is not null then format('unknown queue %s', to_json(p_queue))
         when q.queue_id is null and p_model is null then 'queue is missing, and so is data.model to find one by'
         when q.queue_id is null then format('no route for model %s', p_model)
         when q.endpoint <> p_endpoint then
           format('queue %s is registered for endpoint %s, not %s', to_json(q.queue), q.endpoint, p_endpoint) end
  from (values (1)) one
  left join lateral (
    select 1 as choice, q.* from tasklane.queue q where q.queue = p_queue and q.deleted_at is null
    union all
    select 2, q.* from tasklane.channel c join tasklane.queue q using (queue_id)
      where p_queue is null and c.endpoint = p_endpoint and c.model = p_model and q.deleted_at is null
    union all
    select 3, q.* from tasklane.queue q
      where p_queue is null and q.queue = p_model and q.endpoint = p_endpoint and q.deleted_at is null
    order by choice limit 1
  ) q on true
$$;
