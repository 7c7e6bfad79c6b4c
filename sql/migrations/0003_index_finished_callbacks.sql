-- A task goes with its deliveries, so they are found by the task.
create index callback_delivery_finished_task on tasklane.callback_delivery (task_id) where finished_at is not null;
