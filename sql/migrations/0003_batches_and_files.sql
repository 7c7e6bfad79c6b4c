-- Files, uploads, batches, webhook endpoints; which attempt reported an event.

create table tasklane.file (
  file_number bigint generated always as identity primary key,
  file_id text not null unique,                         -- file-…
  tenant_id int not null references tasklane.tenant,
  filename text not null constraint file_filename check (length(filename) between 1 and 255),
  purpose text,                                         -- null while it comes and has not said so yet
  bytes bigint not null default 0,
  created_at timestamptz not null default now(),
  expires_at timestamptz,                               -- null: never
  ready boolean not null default false,                 -- all of it is there; before, nobody sees it
  touched_at timestamptz not null default now(),        -- the last that was written to one that is not ready
  deleted_at timestamptz,                               -- nobody sees it any more; its chunks stay for as long as a batch reads them
  constraint file_purpose check (purpose is not null or not ready)
);
create index file_tenant on tasklane.file (tenant_id, file_number) include (bytes, expires_at) where ready and deleted_at is null;
create index file_unready on tasklane.file (touched_at) where not ready and deleted_at is null;
create index file_expiry on tasklane.file (expires_at) where deleted_at is null;
create index file_deleted on tasklane.file (deleted_at) where deleted_at is not null;

-- A file's bytes, as text is better left uncompressed where parts of it are read.
create table tasklane.file_chunk (
  file_number bigint not null,
  at bigint not null,                                   -- where in the file its first byte is
  bytes bytea not null,
  primary key (file_number, at)
);
alter table tasklane.file_chunk alter bytes set storage external;

-- A file that comes in parts. Each part is a file of its own that is never ready, until complete gives its chunks to the whole.
create table tasklane.upload (
  upload_number bigint generated always as identity primary key,
  upload_id text not null unique,                       -- upload_…
  tenant_id int not null references tasklane.tenant,
  filename text not null,
  purpose text not null,
  mime_type text not null,
  bytes bigint not null,                                -- as announced
  file_expires_seconds int,                             -- of the file, once it is there
  status text not null default 'pending' constraint upload_status check (status in ('pending', 'completed', 'cancelled', 'expired')),
  part_ids text[],                                      -- of which it was completed, in order
  file_number bigint,                                   -- the file that came of it
  created_at timestamptz not null default now(),
  expires_at timestamptz not null
);
create index upload_expiry on tasklane.upload (expires_at);
create table tasklane.upload_part (
  part_id text primary key,                             -- part_…
  upload_number bigint not null references tasklane.upload,
  file_number bigint not null,
  bytes bigint not null,
  created_at timestamptz not null default now()
);
create index upload_part_upload on tasklane.upload_part (upload_number);
create index upload_part_file on tasklane.upload_part (file_number);

create type tasklane.batch_status as enum ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled');

-- Counts lag behind by what lies in batch_tally.
create table tasklane.batch (
  batch_id bigint primary key,                          -- made as a task's id is
  tenant_id int not null references tasklane.tenant,
  key_id int,
  endpoint text not null,
  input_file bigint not null,
  input_file_id text not null,
  completion_window text not null,
  queue_id int,                                         -- for every line; null: each by its model
  metadata json,
  output_expires_seconds int,
  retry_of bigint,
  status tasklane.batch_status not null default 'validating',
  ending tasklane.batch_status,                         -- what it will be once its files are written
  paused boolean not null default false,
  model text,                                           -- of all lines, where they have one and the same
  errors json,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  in_progress_at timestamptz,
  finalizing_at timestamptz,
  completed_at timestamptz,
  failed_at timestamptz,
  expired_at timestamptz,
  cancelling_at timestamptz,
  cancelled_at timestamptz,
  total int not null default 0,
  completed int not null default 0,                     -- 2xx
  failed int not null default 0,                        -- another answer, or none although it was tried
  unanswered int not null default 0,                    -- ended with the batch
  routes jsonb,                                         -- model -> lane_id; '' where one queue takes all
  read_to bigint not null default 0,                    -- bytes of the input that have become tasks
  read_lines int not null default 0,                    -- physical lines in them
  expanded boolean not null default false,
  output_file bigint,
  error_file bigint,
  written_to bigint not null default 0,                 -- the task up to which the files are written
  usage bigint[] not null default '{0,0,0,0,0}',        -- input, cached, output, reasoning, total
  worked_at timestamptz,                                -- when a server last did a step of the work; others wait for a while
  marks json                                            -- two counts of a while ago, for the rate
);
create index batch_tenant on tasklane.batch (tenant_id, batch_id);
create index batch_open on tasklane.batch (batch_id) where status in ('validating', 'in_progress', 'finalizing', 'cancelling');

-- A batch's lines for one lane, for as long as it runs. Lines beyond released_through are tasks that wait, but not yet in ready.
create table tasklane.batch_lane (
  batch_id bigint not null,
  lane_id int not null,
  lines int not null,
  released_through bigint not null default 0,
  all_released boolean not null default false,
  primary key (batch_id, lane_id)
);
create index batch_lane_lane on tasklane.batch_lane (lane_id, batch_id);

-- What ended, a row for each call that ended lines; fold_batches moves it on.
create table tasklane.batch_tally (
  batch_id bigint not null,
  completed int not null,
  failed int not null,
  unanswered int not null,
  ids bigint[] not null
);
-- The lines in the order in which they were seen to end: the nth is found by first.
create table tasklane.batch_done (
  batch_id bigint not null,
  first int not null,                                   -- the place of the first of ids, from 1
  ids bigint[] not null,
  primary key (batch_id, first)
);

create index task_batch on tasklane.task (batch_id, lane_id, id) where batch_id is not null;

-- From here on a tally without a tenant is of batches' lines.
with gone as (
  delete from tasklane.lane_tally returning *
), tenants as (
  update tasklane.tenant n set put_count = n.put_count + s.put_count, ended_count = n.ended_count + s.ended_count
  from (select tenant_id, sum(put_count) as put_count, sum(ended_count) as ended_count from gone group by tenant_id) s where s.tenant_id = n.tenant_id
)
update tasklane.lane l set put_count = l.put_count + s.put_count, ended_count = l.ended_count + s.ended_count
from (select lane_id, sum(put_count) as put_count, sum(ended_count) as ended_count from gone group by lane_id) s where s.lane_id = l.lane_id;
alter table tasklane.lane
  add line_count bigint not null default 0,             -- of put_count less ended_count, how many are lines of batches
  add top_up_at bigint,                                 -- when this line is taken, the batches' window is to be topped up; null: no batch runs
  add window_lines int not null default 128,
  add topped_up_at timestamptz;

create table tasklane.webhook_endpoint (
  endpoint_number int generated always as identity primary key,
  endpoint_id text not null unique,                     -- whe_…
  tenant_id int not null references tasklane.tenant,
  name text not null,
  url text not null,
  event_types text[] not null,
  signing_secret text not null,
  former_secret text,                                   -- signs as well until then
  former_until timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index webhook_endpoint_tenant on tasklane.webhook_endpoint (tenant_id, endpoint_number);

-- A delivery is a task's callback, or an event for a webhook endpoint.
alter table tasklane.callback_delivery
  alter task_id drop not null,
  add endpoint_number int,
  add event json;
-- An endpoint goes with its deliveries, so they are found by the endpoint.
create index callback_delivery_endpoint on tasklane.callback_delivery (endpoint_number) where endpoint_number is not null;

alter table tasklane.task_event
  add attempt int;                                      -- the one that reported it
