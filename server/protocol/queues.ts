import { z } from 'zod';
import { endpointName, modelName, queueName } from './names.ts';

const seconds = z.number().min(0).max(86_400);
const limit = (least: number) => z.int().min(least).max(2_147_483_647).nullish();

export const maxAttempts = z.int().min(1).max(100);
/** The pause before attempt n + 1 is min(max, initial x factor^(n - 1)) seconds; with jitter, anything from nothing to that. */
export const retry = z
  .object({
    initial_seconds: seconds,
    factor: z.number().min(1).max(100),
    max_seconds: seconds,
    jitter: z.boolean(),
  })
  .partial();

const settings = {
  lease_seconds: z.int().min(1).max(86_400).optional(),
  max_attempts: maxAttempts.optional(),
  /** How often a live task whose client waits is tried, where the model server fails it. */
  live_attempts: maxAttempts.optional(),
  /** How long such a task, and any other, goes on when it is refused again and again. */
  live_refusal_seconds: z.int().min(0).max(86_400).optional(),
  refusal_seconds: z.int().min(0).max(2_592_000).optional(),
  retry: retry.optional(),
  /** null: no limit. */
  max_depth: limit(1),
  max_running: limit(1),
  max_completed_tasks: limit(0),
  /** 0: tasks keep their priority however long they wait. */
  aging_seconds: z.int().min(0).max(86_400).optional(),
  retention_seconds: z.int().min(1).max(315_360_000).optional(),
};

export const registerBody = z.object({ queue: queueName, endpoint: endpointName, ...settings });
export const settingsBody = z.object(settings);
export const channelBody = z.object({ endpoint: endpointName, model: modelName, queue: queueName });
