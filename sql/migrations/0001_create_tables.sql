
-- How the answer of a task travels. The letter in a printed id is B, S, C, P.
create type tasklane.response_mode as enum ('blocking', 'streaming', 'callback', 'batch');

-- How a task ended. succeeded and failed carry an answer (status 2xx, or any other); the rest do not.
create type tasklane.outcome as enum ('succeeded', 'failed', 'dead', 'expired', 'cancelled');

create table tasklane.tenant (
  tenant_id int generated always as identity primary key,
  tenant text not null unique constraint tenant_name check (tenant ~ '^[A-Za-z0-9._-]{1,64}$'),
  -- Signs callbacks. HMAC needs the secret itself, so it can't be a hash.
  callback_secret text not null,
  created_at timestamptz not null default now()
);

create table tasklane.api_key (
  key_id int generated always as identity primary key,
  key_hash bytea not null unique,                       -- sha256 of the secret, which is stored nowhere
  tenant_id int not null references tasklane.tenant,
  role text not null constraint api_key_role check (role in ('client', 'worker', 'admin')),
  name text not null default '' constraint api_key_name check (length(name) <= 200),
  created_at timestamptz not null default now(),
  revoked_at timestamptz
);

create table tasklane.instance (
  instance_id int generated always as identity primary key,
  instance text not null unique,                        -- ip:port
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now()
);

create table tasklane.queue (
  queue_id int generated always as identity primary key,
  queue text not null constraint queue_name check (
    queue ~ '^[A-Za-z0-9_-]{1,64}$' and queue !~ '^TASK-'
    and queue not in ('put', 'puts', 'take', 'complete', 'register', 'events', 'eventbus', 'heartbeat')),
  endpoint text not null constraint queue_endpoint check (length(endpoint) between 1 and 256),
  lease_seconds int not null default 600 constraint queue_lease_seconds check (lease_seconds between 1 and 86400),
  max_attempts int not null default 3 constraint queue_max_attempts check (max_attempts between 1 and 100),
  retry_initial_seconds float8 not null default 1,
  retry_factor float8 not null default 2,
  retry_max_seconds float8 not null default 300,
  retry_jitter boolean not null default true,
  max_depth int constraint queue_max_depth check (max_depth > 0),
  max_running int constraint queue_max_running check (max_running > 0),
  paused boolean not null default false,
  created_at timestamptz not null default now(),
  deleted_at timestamptz                                -- kept: its finished tasks still name it
);
create unique index queue_live_name on tasklane.queue (queue) where deleted_at is null;

-- put_count and ended_count lag behind by what still lies in lane_tally; queue_stats adds the two.
create table tasklane.lane (
  lane_id int generated always as identity primary key,
  queue_id int not null references tasklane.queue,
  level smallint not null constraint lane_level check (level between 0 and 99),
  put_count bigint not null default 0,
  ended_count bigint not null default 0,
  unique (queue_id, level)
);

-- Counting without a hot row: every call that puts or ends tasks inserts what it adds; fold_tallies moves it into lane.
create table tasklane.lane_tally (
  lane_id int not null,
  put_count int not null,
  ended_count int not null
);

create table tasklane.channel (
  channel_id int generated always as identity primary key,
  queue_id int not null references tasklane.queue,
  endpoint text not null constraint channel_endpoint check (length(endpoint) between 1 and 256),
  model text not null constraint channel_model check (length(model) between 1 and 256),
  created_at timestamptz not null default now(),
  unique (endpoint, model)
);

-- A task id is seconds since 2025-01-01 UTC x 10^10 + this number modulo 10^10: ordered by time, so a range of ids
-- is a range of time, and fifo over many lanes compares numbers.
create sequence tasklane.task_number;

-- What was given at put. Written once, never updated. Where the id stands besides tells the state:
-- result -> ended, running -> running, deferred -> deferred, otherwise waiting.
-- No foreign keys and no triggers here, nor on any table below: they would double the cost of a put.
create table tasklane.task (
  id bigint not null,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  batch_id bigint,
  lane_id int not null,
  tenant_id int not null,
  key_id int,                                           -- null: the admin key, or psql
  instance_id int,                                      -- who holds the client of a blocking or streaming task
  mode tasklane.response_mode not null,
  rank smallint not null,                               -- at put; ready.rank is the one in force
  callback_url text,
  trace_id text,
  custom_id text,
  data json not null,
  constraint task_key primary key (id)
) partition by range (id);

-- The waiting tasks, and nothing else. Its only index is the order in which takes go through it. Rows are inserted
-- and deleted, never updated.
create table tasklane.ready (
  id bigint not null,
  expires_at timestamptz not null,
  lane_id int not null,
  attempt int not null,                                 -- how often it was taken before
  rank smallint not null                                -- 100 - priority: lower goes first
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off, vacuum_index_cleanup = on);
-- vacuum_index_cleanup: left to itself, vacuum skips the index when few pages hold dead rows, which is just the case
-- of a long backlog with a dead head.
create unique index ready_order on tasklane.ready (lane_id, rank, id);

create table tasklane.running (
  id bigint primary key,
  expires_at timestamptz not null,
  taken_at timestamptz not null,
  lease_until timestamptz not null,
  due_at timestamptz not null generated always as (least(lease_until, expires_at)) stored,
  lane_id int not null,
  queue_id int not null,
  attempt int not null,                                 -- fences: every later call of the worker must match it
  rank smallint not null,
  worker text
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off, vacuum_index_cleanup = on);
create index running_queue on tasklane.running (queue_id);
create index running_due on tasklane.running (due_at);

create table tasklane.deferred (
  id bigint primary key,
  expires_at timestamptz not null,
  run_at timestamptz not null,
  due_at timestamptz not null generated always as (least(run_at, expires_at)) stored,
  lane_id int not null,
  attempt int not null,
  rank smallint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off, vacuum_index_cleanup = on);
create index deferred_due on tasklane.deferred (due_at);

-- The end of a task. Insert only.
create table tasklane.result (
  id bigint not null,
  completed_at timestamptz not null,
  taken_at timestamptz,                                 -- null: never taken
  outcome tasklane.outcome not null,
  attempt int not null,
  status_code smallint not null,                        -- 502 dead, 408 expired, 499 cancelled
  request_id text,
  worker text,
  body json,                                            -- null where the task ended without an answer
  constraint result_key primary key (id)
) partition by range (id);

-- What a worker reported on the way, numbered from 1 within its task.
create table tasklane.task_event (
  id bigint not null,
  seq int not null,
  created_at timestamptz not null,
  event_id text,
  name text not null,
  data json,
  constraint task_event_key primary key (id, seq)
) partition by range (id);

-- A task is never refused because its day has no partition yet; make_partitions moves what landed here.
create table tasklane.task_default partition of tasklane.task default;
create table tasklane.result_default partition of tasklane.result default;
create table tasklane.task_event_default partition of tasklane.task_event default;

-- Outbox: a row is written in the transaction that ends the task.
create table tasklane.callback_delivery (
  delivery_id bigint generated always as identity primary key,
  task_id bigint not null,
  tenant_id int not null,
  url text not null,
  status text not null default 'pending' constraint callback_delivery_status check (status in ('pending', 'delivered', 'failed')),
  attempts int not null default 0,
  next_at timestamptz not null default now(),           -- while one sends, this is when others may try again
  last_status smallint,
  last_error text,
  created_at timestamptz not null default now(),
  finished_at timestamptz
);
create index callback_delivery_due on tasklane.callback_delivery (next_at) where status = 'pending';

-- gen_random_uuid draws from the system's secure random source: 366 random bits here.
insert into tasklane.tenant (tenant, callback_secret) values ('default', 'whsec_' || encode(
  sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64'));
