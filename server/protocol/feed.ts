import { z } from 'zod';
import { shortText } from './names.ts';

const EVENT_TYPES = [
  'submitted',
  'started',
  'progress',
  'released',
  'retried',
  'completed',
  'failed',
  'dead',
  'expired',
  'cancelled',
  'priority_updated',
  'replayed',
] as const;
export type EventType = (typeof EVENT_TYPES)[number];

/** Where an event is in the feed: its number, and 0 before all. Fewer digits than a double has. */
const cursor = z.string().regex(/^\d{1,15}$/, 'is not the id of an event');

const types = z.string().transform((list, context): EventType[] => {
  const names = list.split(',').map((name) => name.trim());
  const known: readonly string[] = EVENT_TYPES;
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) context.addIssue({ code: 'custom', message: `unknown type ${JSON.stringify(unknown)}` });
  return names as EventType[];
});

const filters = {
  types: types.nullish(),
  queue: shortText(256).nullish(),
  task_id: z.string().nullish(),
  batch_id: shortText(256).nullish(),
};

export const feedQuery = z.object(filters);
export const lastEventId = cursor.optional();

/** What a reader of the feed sends over the event bus: these names, the first with what it wants to follow. */
export const FEED_FRAMES: readonly string[] = ['subscribe', 'unsubscribe'];
export const feedFrame = z.object({
  payload: z
    .object({
      ...filters,
      last_event_id: z.union([cursor, z.int().min(0).transform(String)], 'is not the id of an event').nullish(),
    })
    .nullish(),
});

export type FeedRequest = z.infer<typeof feedQuery> & { last_event_id?: string | null | undefined };
