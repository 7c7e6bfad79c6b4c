-- Refusals, the last answer of a failed attempt, and what workers say of their upstreams.

alter table tasklane.queue
  -- how often a live task whose client waits is tried, where the model server failed it
  add live_attempts int not null default 2 constraint queue_live_attempts check (live_attempts between 1 and 100),
  -- how long the model server may refuse a live task, and any other, before that ends with the last refusal
  add live_refusal_seconds int not null default 30 constraint queue_live_refusal_seconds check (live_refusal_seconds between 0 and 86400),
  add refusal_seconds int not null default 900 constraint queue_refusal_seconds check (refusal_seconds between 0 and 2592000);

-- null: an attempt that counted. Else the row is one for all refusals of that attempt in a row: from the first one's take to the last one's end.
alter table tasklane.task_attempt add refusals int;

alter table tasklane.worker
  add host text not null default '',
  add stopped_at timestamptz,                           -- it said good-bye
  add upstreams json;                                   -- as it last said

-- What goes on of the headers: of the answer to the client, of the client's request to the model server. Null: none.
alter table tasklane.result add headers json;
alter table tasklane.task add headers json;
