import { z } from 'zod';
import { attemptNumber, shortText } from './names.ts';
import { resultBody } from './tasks.ts';

/** Where the event bus's WebSocket is. */
export const EVENT_BUS_PATH = '/v1/queue/eventbus';

/** Written into a line of an event stream. */
const oneLine = (max: number) => shortText(max).refine((text) => !/[\r\n]/.test(text), 'must be one line');
const attempt = attemptNumber.nullish();

export const busEvent = z.discriminatedUnion('name', [
  z.object({
    name: z.literal('task-progress-event'),
    payload: z.object({
      taskId: z.string(),
      eventId: z.union([oneLine(256), z.int().transform(String)], 'a text or an integer').nullish(),
      eventName: oneLine(128)
        .min(1)
        .refine((name) => name !== 'completion' && name !== 'error', 'completion and error are reserved'),
      eventData: z.unknown().optional(),
      attempt,
      /** Sent again, because its answer was lost: it is not stored twice. It needs an eventId that no other event of the attempt has. */
      repeated: z.boolean().nullish(),
    }),
  }),
  z.object({
    name: z.literal('task-completion-event'),
    payload: z.object({ taskId: z.string(), result: resultBody, attempt }),
  }),
]);
export type BusEvent = z.infer<typeof busEvent>;

/**
 * What a worker says of a task on its WebSocket: that it holds it and has not begun, so that it goes back should the socket close; and that it
 * has begun.
 */
export const holdEvent = z.discriminatedUnion('name', [
  z.object({ name: z.literal('task-hold-event'), payload: z.object({ taskId: z.string(), attempt: attemptNumber }) }),
  z.object({ name: z.literal('task-begin-event'), payload: z.object({ taskId: z.string() }) }),
]);
