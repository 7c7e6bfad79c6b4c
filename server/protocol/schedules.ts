import { z } from 'zod';
import { optional, shortText } from './names.ts';
import { putBody } from './tasks.ts';

const MISSED = ['skip', 'one', 'all'] as const;
/** What becomes of ticks that no server was there for. */
export type Missed = (typeof MISSED)[number];

const name = shortText(200).min(1);
const cron = shortText(512);
const timezone = shortText(64);
const missed = z.enum(MISSED);

const PRINTED = /^schedule-([1-9]\d{0,8})$/;

/** What is put at every tick: nobody waits for its answer, and a time or a key of its own would fit one tick only. */
const task = putBody.superRefine((put, context) => {
  const refuse = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message });
  if (put.response_mode !== 'callback') refuse('response_mode', 'a schedule puts callback tasks only');
  if (put.run_at != null) refuse('run_at', 'a schedule says when its tasks run; delay_seconds counts from each tick');
  if (put.idempotency_key != null) refuse('idempotency_key', 'each tick puts a task of its own');
});

export const scheduleBody = z.object({
  name,
  cron,
  timezone: optional(timezone, 'UTC'),
  task,
  enabled: optional(z.boolean(), true),
  missed: optional(missed, 'skip'),
});

export const scheduleChanges = z.object({
  name: name.nullish(),
  cron: cron.nullish(),
  timezone: timezone.nullish(),
  task: task.nullish(),
  enabled: z.boolean().nullish(),
  missed: missed.nullish(),
});

export const schedulesQuery = z.object({
  after: z.string().regex(PRINTED, 'is not a schedule id').optional(),
  limit: z.coerce.number().pipe(z.int().min(1).max(1000)).default(20),
});

export const previewQuery = z.object({
  cron,
  timezone: timezone.default('UTC'),
  count: z.coerce.number().pipe(z.int().min(1).max(100)).default(5),
});

export const printScheduleId = (scheduleId: number) => `schedule-${scheduleId}`;

/** The number in a printed id, or undefined when it is none. */
export function parseScheduleId(printed: string): number | undefined {
  const number = PRINTED.exec(printed)?.[1];
  return number === undefined ? undefined : Number(number);
}
