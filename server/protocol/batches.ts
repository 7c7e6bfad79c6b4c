import { z } from 'zod';
import { shortText } from './names.ts';
import { expiresAfter, openAiMetadata, queryInteger } from './openai.ts';

const BATCH_ENDPOINTS = [
  '/v1/responses',
  '/v1/chat/completions',
  '/v1/embeddings',
  '/v1/completions',
  '/v1/moderations',
  '/v1/images/generations',
  '/v1/images/edits',
  '/v1/videos',
] as const;
const UNIT_SECONDS = { s: 1, m: 60, h: 3600, d: 86_400 } as const;
const MAX_WINDOW_SECONDS = 30 * 86_400;

/** A time such as 24h. Gives it as it is written, and its seconds. */
const completionWindow = z.string().transform((text, context) => {
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const seconds = Number(count) * UNIT_SECONDS[unit as keyof typeof UNIT_SECONDS];
  if (seconds >= 1 && seconds <= MAX_WINDOW_SECONDS) return { text, seconds };
  context.addIssue({
    code: 'custom',
    params: { code: 'invalid_value' },
    message: `Invalid value: '${text.slice(0, 200)}'. Supported values are: '24h', and any time up to 30 days such as '90s', '30m', '12h' or '7d'.`,
  });
  return z.NEVER;
});

const fileId = shortText(200).min(1);

export const batchBody = z.object({
  input_file_id: fileId,
  endpoint: z.enum(BATCH_ENDPOINTS),
  completion_window: completionWindow,
  metadata: openAiMetadata.nullish(),
  output_expires_after: expiresAfter.nullish(),
});

export const dryRunBody = z.object({ input_file_id: fileId, endpoint: z.enum(BATCH_ENDPOINTS) });

export const batchesQuery = z.object({
  after: z.string().max(200).optional(),
  limit: queryInteger(0, 100).default(20),
});
export const resultsQuery = z.object({
  after: queryInteger(0, 2_147_483_647).default(0),
  limit: queryInteger(1, 1000).default(100),
});

/** Why a batch's input can't be run; `line` counts from 1, blank ones too. */
export type InputError = { code: string; message: string; param: string | null; line: number | null };
