import { z } from 'zod';
import {
  attemptNumber,
  endpointName,
  laneName,
  level,
  mapped,
  optional,
  queueName,
  saidText,
  shortText,
} from './names.ts';
import { maxAttempts, retry } from './queues.ts';
import { workerSays } from './workers.ts';

const STRATEGIES = ['fifo', 'round_robin', 'active_passive', 'sequential'] as const;
const STATUSES = ['waiting', 'deferred', 'running', 'succeeded', 'failed', 'dead', 'expired', 'cancelled'] as const;
const MAX_TAKE = 1000;
const MAX_PUTS = 1000;
const MAX_HEARTBEAT = 10_000;

export const PRIORITIES = { low: 1, normal: 5, high: 10, critical: 15 } as const;
const priority = mapped(
  z.union(
    [z.int().min(0).max(100), z.enum(['low', 'normal', 'high', 'critical'])],
    'low, normal, high, critical, or an integer from 0 to 100',
  ),
  (named) => (typeof named === 'string' ? PRIORITIES[named] : named),
);

/** Seconds ahead of now that a task may be put off. */
const MAX_DELAY = 31_622_400;
const MAX_METADATA = 16;

const metadata = z
  .record(shortText(64).min(1), shortText(512))
  .refine((pairs) => Object.keys(pairs).length <= MAX_METADATA, `at most ${MAX_METADATA} pairs`);
/** Epoch milliseconds or ISO 8601, in UTC where it names no offset. Gives epoch milliseconds. */
const moment = z.union(
  [
    z.int().min(0).max(8_640_000_000_000_000),
    z.iso
      .datetime({ offset: true, local: true })
      .transform((text) => Date.parse(/Z|[+-]\d\d:?\d\d$/.test(text) ? text : `${text}Z`)),
  ],
  'epoch milliseconds, or a time as in 2026-01-31T12:00:00Z',
);
export const idempotencyKey = shortText(255).min(1);

/** Seconds: what a mode gets without a `timeout`, and the most it may ask for. */
export const TIMEOUTS = {
  callback: { usual: 86_400, most: 2_592_000 },
  blocking: { usual: 300, most: 600 },
  streaming: { usual: 300, most: 600 },
} as const;

export const putBody = z
  .object({
    queue: shortText(256).nullish(),
    endpoint: endpointName,
    level: optional(level, 0),
    data: z.looseObject({}),
    response_mode: optional(z.enum(['callback', 'blocking', 'streaming']), 'callback'),
    callback_url: shortText(2048).nullish(),
    timeout: z.int().min(1).max(TIMEOUTS.callback.most).nullish(),
    trace_id: shortText(128).nullish(),
    priority: optional(priority, PRIORITIES.normal),
    run_at: moment.nullish(),
    delay_seconds: z.number().min(0).max(MAX_DELAY).nullish(),
    max_attempts: maxAttempts.nullish(),
    retry: retry.nullish(),
    idempotency_key: idempotencyKey.nullish(),
    metadata: metadata.nullish(),
  })
  .check(({ value: put, issues }) => {
    const refuse = (field: 'run_at' | 'timeout', message: string) =>
      issues.push({ code: 'custom', input: put[field], path: [field], message });
    const { most } = TIMEOUTS[put.response_mode];
    if (put.run_at != null && put.delay_seconds != null) refuse('run_at', 'give run_at or delay_seconds, not both');
    if (put.timeout != null && put.timeout > most)
      refuse('timeout', `at most ${most} seconds for ${put.response_mode}`);
  });
export type PutBody = z.infer<typeof putBody>;

export const putsBody = z.object({
  tasks: z
    .array(
      putBody.refine((put) => put.response_mode === 'callback', {
        path: ['response_mode'],
        message: 'puts takes callback tasks only',
      }),
    )
    .min(1)
    .max(MAX_PUTS),
});

export const takeBody = z.object({
  queues: z.array(laneName).min(1).max(1000),
  size: z.int().min(1).max(MAX_TAKE),
  strategy: optional(z.enum(STRATEGIES), 'fifo'),
  endpoint: endpointName.nullish(),
  wait: optional(z.number().min(0).max(60), 0),
  lease_seconds: z.int().min(1).max(86_400).nullish(),
  /** Bella's name for lease_seconds; its clients send 0 for none. */
  process_timeout: z.int().min(0).max(86_400).nullish(),
  /** Lapses of the lease after which the task still goes back: 0 none, -1 no limit. */
  process_max_retries: z.int().min(-1).max(2_147_483_646).nullish(),
  min_age_seconds: optional(z.int().min(0).max(2_592_000), 0),
  worker: workerSays.nullish(),
});

export const priorityBody = z.object({ priority });

const attempt = attemptNumber.nullish();

export const heartbeatBody = z
  .object({
    tasks: z.array(z.object({ task_id: z.string(), attempt })).max(MAX_HEARTBEAT),
    lease_seconds: z.int().min(1).max(86_400).nullish(),
    /** Seconds to wait for one of the tasks, or another one of the worker, to be cancelled or lost. */
    wait: optional(z.number().min(0).max(30), 0),
    worker: workerSays.nullish(),
  })
  .check(({ value: { tasks, worker }, issues }) => {
    if (tasks.length === 0 && worker == null)
      issues.push({ code: 'custom', input: tasks, path: ['tasks'], message: 'name a task, or say who the worker is' });
  });

/** What the model server answered to the last call: no 2xx, or it would have completed the task. */
const lastAnswer = z.object({
  status_code: z.int().min(400).max(599),
  request_id: saidText(256).nullish(),
  body: z.unknown().optional(),
  headers: z.record(z.string(), z.unknown()).nullish(),
});

export const releaseBody = z
  .object({
    /** null: the backoff decides. */
    delay_seconds: z.number().min(0).max(MAX_DELAY).nullish(),
    reason: saidText(512).nullish(),
    attempt,
    /** false: nothing was done for the task, so the attempt does not count; without a delay it waits where it was. */
    begun: optional(z.boolean(), true),
    answer: lastAnswer.nullish(),
  })
  .prefault({});
export type ReleaseBody = z.output<typeof releaseBody>;

const answer = {
  status_code: z.int().min(200).max(599),
  request_id: shortText(256).nullish(),
  body: z.unknown(),
  /** What the model server said besides; of these, those that go on to the client are kept. */
  headers: z.record(z.string(), z.unknown()).nullish(),
  attempt,
};
export const completeBody = z.object(answer);
export const completesBody = z.object({
  results: z
    .array(z.object({ task_id: z.string(), ...answer }))
    .min(1)
    .max(MAX_TAKE),
});
export const resultBody = z.object(answer).omit({ attempt: true });

export const deadQuery = z.object({
  queue: queueName.optional(),
  after: z.string().optional(),
  limit: z.coerce.number().pipe(z.int().min(1).max(1000)).default(20),
});
/** Both say which queue: a misspelled field must not replay or remove everything. */
export const replayBody = z.object({ queue: queueName, limit: z.int().min(1).max(1_000_000).nullish() });
export const purgeQuery = z.object({ queue: queueName });

export const listQuery = z.object({
  queue: queueName.optional(),
  level: z.coerce.number().pipe(level).optional(),
  status: z.enum(STATUSES).optional(),
  batch_id: z.string().optional(),
  after: z.string().optional(),
  limit: z.coerce.number().pipe(z.int().min(1).max(1000)).default(20),
  order: z.enum(['asc', 'desc']).default('desc'),
});
export type ListQuery = Partial<z.infer<typeof listQuery>> & { limit: number };
