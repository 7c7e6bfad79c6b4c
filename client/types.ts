// Everything on the wire that the client sends or gets, in the wire's own names. Times are epoch milliseconds, 0 when not yet.

export type ResponseMode = 'callback' | 'blocking' | 'streaming';
export type Strategy = 'fifo' | 'round_robin' | 'active_passive' | 'sequential';
export type TaskStatus = 'waiting' | 'deferred' | 'running' | 'succeeded' | 'failed' | 'dead' | 'expired' | 'cancelled';
/** low 1, normal 5, high 10, critical 15, or 0-100. Higher goes first within a lane. */
export type Priority = 'low' | 'normal' | 'high' | 'critical' | number;

/** The pause before attempt n + 1 is min(max, initial x factor^(n - 1)) seconds; with jitter, anything from nothing to that. */
export type Retry = {
  initial_seconds?: number | undefined;
  factor?: number | undefined;
  max_seconds?: number | undefined;
  jitter?: boolean | undefined;
};

/** A task to be put. */
export type Put<Data = Record<string, unknown>> = {
  /** Without one, `data.model` is routed through channels. */
  queue?: string | undefined;
  /** The queue's, such as `/v1/chat/completions`. */
  endpoint: string;
  /** 0-99; 0, the default, is live, and 1 and up can wait. */
  level?: number | undefined;
  data: Data;
  /** Seconds until the task expires: 86,400 by default, at most 2,592,000; 300 and 600 where the client waits or streams. */
  timeout?: number | undefined;
  /** Gets the answer's body by POST. */
  callback_url?: string | undefined;
  trace_id?: string | undefined;
  priority?: Priority | undefined;
  /** Epoch milliseconds or ISO 8601; or `delay_seconds`. */
  run_at?: number | string | undefined;
  delay_seconds?: number | undefined;
  /** 1-100; the queue's by default. */
  max_attempts?: number | undefined;
  retry?: Retry | undefined;
  /** The same key puts the same task, once, for a day. A random one by default, so that repeats do no harm. */
  idempotency_key?: string | undefined;
  /** Up to 16 texts. */
  metadata?: Record<string, string> | undefined;
};

/** What a worker answered. 2xx is a success. */
export type Result<Body = unknown> = { status_code: number; request_id: string; body: Body };

export type Attempt = {
  attempt: number;
  worker: string | null;
  taken_at: number;
  ended_at: number;
  reason: string | null;
  /** It counted for nothing: the model server refused the task so often, one time after the other. */
  refusals?: number;
};

export type Task<Data = Record<string, unknown>, Body = unknown> = {
  task_id: string;
  /** Names the key that put it; never the secret. */
  ak: string;
  endpoint: string;
  queue: string;
  level: number;
  /** In a take's answer `waiting`. */
  status: TaskStatus;
  attempt: number;
  start_time: number;
  running_time: number;
  expire_time: number;
  completed_time: number;
  /** Empty where there is none. */
  callback_url: string;
  response_mode: ResponseMode | 'batch';
  priority?: number;
  /** Of a deferred task. */
  run_at?: number;
  instance_id?: string;
  batch_id?: string;
  trace_id?: string;
  custom_id?: string;
  metadata?: Record<string, string>;
  /** Of a taken task: what goes on of its request's headers to the model server. */
  headers?: Record<string, string>;
  data: Data;
  /** Once it has ended with an answer. */
  result?: Result<Body>;
  /** With one task, not in lists. */
  attempts?: Attempt[];
};

/** Why a task is where it is. */
export type TaskExplanation = {
  status: TaskStatus;
  /** Of a waiting task: how many of its lane go before it, counted up to 10,000. */
  position: number | null;
  /** When a waiting task may be taken; null while that is not known. */
  eta_seconds: number | null;
  reason: string;
  rule: LaneRule | 'behind' | 'deferred' | 'running' | 'ended';
};

export type TaskFilter = {
  queue?: string | undefined;
  level?: number | undefined;
  status?: TaskStatus | undefined;
  batch_id?: string | undefined;
};

/** What a streaming task's reader gets: events as the worker emits them, and at last its answer. */
export type StreamEvent<Body = unknown> =
  | { type: 'progress'; id: string; name: string; data: unknown }
  | { type: 'completion'; result: Result<Body> };

export type EventType =
  | 'submitted'
  | 'started'
  | 'progress'
  | 'released'
  | 'retried'
  | 'completed'
  | 'failed'
  | 'dead'
  | 'expired'
  | 'cancelled'
  | 'priority_updated'
  | 'replayed';

export type FeedFilter = {
  types?: readonly EventType[] | undefined;
  queue?: string | undefined;
  task_id?: string | undefined;
  batch_id?: string | undefined;
};

export type FeedEvent = {
  /** Where it is in the feed: what `lastEventId` takes. */
  id: string;
  type: EventType;
  task_id: string;
  queue: string;
  level: number;
  status: TaskStatus;
  attempt: number;
  timestamp: number;
  batch_id?: string;
  data?: unknown;
};

export type QueueSettings = {
  lease_seconds?: number | undefined;
  max_attempts?: number | undefined;
  /** How often a live task whose client waits is tried, where the model server fails it. */
  live_attempts?: number | undefined;
  /** How long such a task goes on when the model server refuses it again and again. */
  live_refusal_seconds?: number | undefined;
  /** The same for any other task. */
  refusal_seconds?: number | undefined;
  retry?: Retry | undefined;
  /** null: no limit, as in all that follow. */
  max_depth?: number | null | undefined;
  max_running?: number | null | undefined;
  max_completed_tasks?: number | null | undefined;
  /** A waiting task moves up by one step of priority for each so many seconds; 0: never. */
  aging_seconds?: number | undefined;
  retention_seconds?: number | undefined;
};

export type Queue = {
  queue: string;
  endpoint: string;
  lease_seconds: number;
  max_attempts: number;
  live_attempts: number;
  live_refusal_seconds: number;
  refusal_seconds: number;
  retry: Required<Retry>;
  max_depth: number | null;
  max_running: number | null;
  max_completed_tasks: number | null;
  aging_seconds: number;
  retention_seconds: number;
  paused: boolean;
};

/** What keeps tasks of a lane from being answered. */
export type LaneRule = 'paused' | 'no_worker' | 'worker_lost' | 'upstream_failing' | 'upstream_refusing' | 'limit';

export type LevelCounts = {
  level: number;
  waiting: number;
  deferred: number;
  running: number;
  /** null: nothing keeps them. */
  rule: LaneRule | null;
  /** The same in a sentence. */
  reason: string | null;
};

export type LaneStats = LevelCounts & {
  queue: string;
  oldest_waiting_ms: number | null;
  total_put_cnt: number;
  /** Every task that has ended, however it did. */
  total_completed_cnt: number;
};

export type Channel = { id: number; endpoint: string; model: string; queue: string };

export type Role = 'client' | 'worker' | 'admin';
export type Key = { id: string; role: Role; tenant: string; name: string; created_at: number };

/** What a worker says of a server that it sends tasks to. */
export type UpstreamReport = {
  url: string;
  /** refusing: it says nothing but that it has no room. failing: nothing goes well. away: it is not used until it answers again. */
  state: 'healthy' | 'refusing' | 'failing' | 'away';
  /** Epoch milliseconds: since when it is in this state. */
  since: number;
  /** What it answered last in this state. */
  status?: number | null | undefined;
  message?: string | null | undefined;
  in_flight: number;
  limit: number;
  /** Whose tasks it gets; without them, all that the worker takes. */
  queues?: readonly string[] | null | undefined;
};

export type WorkerInfo = {
  id: string;
  name: string;
  host: string;
  /** stopped: it said good-bye. lost: it has not been seen for 45 seconds. Both go after an hour. */
  state: 'active' | 'draining' | 'stopped' | 'lost';
  capacities: Record<string, number> | null;
  lanes: string[];
  first_seen: number;
  last_seen: number;
  stopped_at: number | null;
  draining: boolean;
  /** null: it tells of none. */
  upstreams: UpstreamReport[] | null;
  running: number;
  /** Tasks a second, over the last minute. */
  rate: number;
};

export type ScheduleInput = {
  name: string;
  cron: string;
  /** An IANA name; UTC by default. */
  timezone?: string | undefined;
  /** What is put at every tick: a callback task without `run_at` and `idempotency_key`. */
  task: Put;
  enabled?: boolean | undefined;
  /** What becomes of ticks that no server was there for; `skip` by default. */
  missed?: 'skip' | 'one' | 'all' | undefined;
};

export type Schedule = {
  id: string;
  name: string;
  cron: string;
  timezone: string;
  task: Put;
  enabled: boolean;
  missed: 'skip' | 'one' | 'all';
  next_run: number | null;
  last_run: number | null;
  run_count: number;
  last_task_id: string | null;
  /** Why the last tick put nothing. */
  last_error: string | null;
};

export type BatchStatus =
  | 'validating'
  | 'failed'
  | 'in_progress'
  | 'finalizing'
  | 'completed'
  | 'expired'
  | 'cancelling'
  | 'cancelled';

/** OpenAI's Batch. Times are epoch seconds here. */
export type Batch = {
  id: string;
  object: 'batch';
  endpoint: string;
  model: string | null;
  errors: {
    object: 'list';
    data: { code: string; message: string; param: string | null; line: number | null }[];
  } | null;
  input_file_id: string;
  completion_window: string;
  status: BatchStatus;
  output_file_id: string | null;
  error_file_id: string | null;
  created_at: number;
  in_progress_at: number | null;
  expires_at: number | null;
  finalizing_at: number | null;
  completed_at: number | null;
  failed_at: number | null;
  expired_at: number | null;
  cancelling_at: number | null;
  cancelled_at: number | null;
  request_counts: { total: number; completed: number; failed: number };
  usage: {
    input_tokens: number;
    input_tokens_details: { cached_tokens: number };
    output_tokens: number;
    output_tokens_details: { reasoning_tokens: number };
    total_tokens: number;
  };
  metadata: Record<string, string> | null;
};

/** A line of a batch's input. */
export type BatchLine = { custom_id: string; method: 'POST'; url: string; body: Record<string, unknown> };

/** What came of a line: an answer, or why there is none. */
export type BatchResult<Body = unknown> = {
  id: string;
  custom_id: string;
  response: Result<Body> | null;
  error: { code: string; message: string } | null;
};

export type BatchExplanation = {
  status: BatchStatus;
  waiting: number;
  running: number;
  /** Lines of other batches ahead of the next of this one's. */
  position: number;
  eta_seconds: number | null;
  reason: string;
};

export type BatchValidation = {
  valid: boolean;
  total: number;
  models: Record<string, number>;
  estimated_input_tokens: number;
  errors: { code: string; message: string; param: string | null; line: number | null }[];
};

/** OpenAI's File. Times are epoch seconds here. */
export type StoredFile = {
  id: string;
  object: 'file';
  bytes: number;
  created_at: number;
  expires_at: number | null;
  filename: string;
  purpose: string;
  status: string;
};
