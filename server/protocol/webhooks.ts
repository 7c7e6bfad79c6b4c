import { z } from 'zod';
import { optional, shortText } from './names.ts';
import { queryInteger } from './openai.ts';

/** What this server sends; of OpenAI's other events nothing would ever come. */
export const WEBHOOK_EVENTS = ['batch.completed', 'batch.failed', 'batch.expired', 'batch.cancelled'] as const;

const eventType = z.enum(WEBHOOK_EVENTS);

export const webhookBody = z.object({
  name: shortText(256).min(1),
  url: shortText(2048).min(1),
  event_types: z
    .array(eventType)
    .min(1)
    .max(100)
    .transform((types) => [...new Set(types)]),
});

export const webhookChange = optional(webhookBody.partial(), {});

export const webhookRotation = optional(
  z.object({ keep_old_secret_active_for_24_hours: optional(z.boolean(), false) }),
  { keep_old_secret_active_for_24_hours: false },
);

export const webhookTest = z.object({ event_type: eventType });

export const webhookList = z.object({
  after: z.string().optional(),
  limit: queryInteger(1, 100).default(20),
});
