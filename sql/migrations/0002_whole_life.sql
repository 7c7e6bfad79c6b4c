-- Leases that lapse, retries, delays, idempotent puts, limits, schedules, events, workers, retention.

alter table tasklane.queue
  add aging_seconds int not null default 0 constraint queue_aging_seconds check (aging_seconds between 0 and 86400),
  add retention_seconds int not null default 604800 constraint queue_retention_seconds check (retention_seconds between 1 and 315360000),
  add max_completed_tasks int constraint queue_max_completed_tasks check (max_completed_tasks >= 0),
  -- everything of this queue that ended before has been removed
  add retained_from timestamptz not null default '-infinity';

alter table tasklane.tenant
  add max_in_flight int constraint tenant_max_in_flight check (max_in_flight > 0),
  add puts_per_second float8 constraint tenant_puts_per_second check (puts_per_second > 0 and puts_per_second <= 1000000),
  -- like the lane's, they lag behind by what lies in lane_tally
  add put_count bigint not null default 0,
  add ended_count bigint not null default 0;
alter table tasklane.lane_tally add tenant_id int;
-- Empty where nothing is limited: a look there is all that a put pays for limits.
create index queue_max_depth on tasklane.queue (queue_id) where max_depth is not null;
create index queue_max_running on tasklane.queue (queue_id) where max_running is not null;
create index tenant_limited on tasklane.tenant (tenant_id) where max_in_flight is not null or puts_per_second is not null;

alter table tasklane.task
  add max_attempts int,                                 -- null: the queue's
  add retry json,                                       -- what of the queue's retry settings it overrides
  add metadata json,
  add replayed_at timestamptz;                          -- when its present life began, if it is not the first

update tasklane.tenant n set put_count = (
  select count(*) from (select id from tasklane.ready union all select id from tasklane.running union all select id from tasklane.deferred) a
  join tasklane.task t using (id) where t.tenant_id = n.tenant_id);

-- online (level 0): only these have their deadline in an index, so that bulk work does not pay for it.
-- ages_at: when the task moves up a rank, in queues that age.
alter table tasklane.ready add online boolean not null default false, add ages_at timestamptz;
create index ready_deadline on tasklane.ready (expires_at) where online;
create index ready_aging on tasklane.ready (ages_at) where ages_at is not null;

alter table tasklane.running
  add lease_seconds int,                                -- null: taken before there were any of its own
  add max_attempts int;                                 -- of its take; null: the task's, or the queue's

-- Attempts that did not end the task. The last one is in running, or in result.
create table tasklane.task_attempt (
  id bigint not null,
  attempt int not null,
  taken_at timestamptz not null,
  ended_at timestamptz not null,
  worker text,
  reason text not null
) partition by range (id);
create index task_attempt_id on tasklane.task_attempt (id);
create table tasklane.task_attempt_default partition of tasklane.task_attempt default;

create index result_dead on tasklane.result (id) where outcome = 'dead';
-- Results come in the order of their ends, so a few bytes for each megabyte are all the index that retention needs.
create index result_completed on tasklane.result using brin (completed_at) with (pages_per_range = 32, autosummarize = on);
create index callback_delivery_pending_task on tasklane.callback_delivery (task_id) where status = 'pending';
-- A task goes with its deliveries, so they are found by the task.
create index callback_delivery_finished_task on tasklane.callback_delivery (task_id) where finished_at is not null;
create index callback_delivery_finished on tasklane.callback_delivery (finished_at) where finished_at is not null;

-- The ended tasks of queues that keep only so many (max_completed_tasks), and of no others.
create table tasklane.kept (
  queue_id int not null,
  completed_at timestamptz not null,
  id bigint not null,
  primary key (queue_id, completed_at, id)
);

create table tasklane.idempotency_key (
  tenant_id int not null,
  idempotency_key text not null constraint idempotency_key_length check (length(idempotency_key) between 1 and 400),
  body_hash bytea not null,                             -- sha256 of what was put
  id bigint not null,
  task_id text not null,
  expires_at timestamptz not null,
  primary key (tenant_id, idempotency_key)
);
create index idempotency_key_expiry on tasklane.idempotency_key (expires_at);

create table tasklane.schedule (
  schedule_id int generated always as identity primary key,
  tenant_id int not null references tasklane.tenant,
  key_id int,                                           -- whose key made it; null: the admin key, or psql
  name text not null constraint schedule_name check (length(name) between 1 and 200),
  cron text not null,
  timezone text not null default 'UTC',
  task json not null,                                   -- a put's body
  enabled boolean not null default true,
  missed text not null default 'skip' constraint schedule_missed check (missed in ('skip', 'one', 'all')),
  next_run timestamptz,                                 -- null: disabled, or never again
  last_run timestamptz,
  last_task_id text,
  last_error text,                                      -- why the last tick put no task
  run_count bigint not null default 0,
  created_at timestamptz not null default now(),
  unique (tenant_id, name)
);
create index schedule_due on tasklane.schedule (next_run) where enabled;

create table tasklane.worker (
  worker text primary key,
  name text not null default '',
  capacities json,
  lanes text[] not null default '{}',
  first_seen timestamptz not null default now(),
  last_seen timestamptz not null default now(),
  draining boolean not null default false
);

-- What happens to tasks, for those who follow it. Events are recorded while somebody follows, and for as long afterwards as they are
-- kept. They are inserted into event_stage by the call that makes them so; number_events moves them on, one caller at a time, in the order
-- of their commits: a reader who goes by number misses none.
create type tasklane.event_type as enum ('submitted', 'started', 'progress', 'released', 'retried', 'completed', 'failed', 'dead',
                                         'expired', 'cancelled', 'priority_updated', 'replayed');
create table tasklane.event_feed (
  one boolean primary key default true constraint event_feed_one check (one),
  recording_until timestamptz not null default '-infinity'
);
insert into tasklane.event_feed default values;
create table tasklane.event_stage (
  seq bigint generated always as identity primary key,
  created_at timestamptz not null default now(),
  id bigint not null,
  attempt int not null,
  type tasklane.event_type not null,
  status text not null,
  data json
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off, vacuum_index_cleanup = on);
create sequence tasklane.event_number;
create table tasklane.event (
  number bigint primary key,
  created_at timestamptz not null,
  id bigint not null,
  attempt int not null,
  type tasklane.event_type not null,
  status text not null,
  data json
);
