import { z } from 'zod';
import { endpointName, modelName, queueName } from './names.ts';

const seconds = z.number().min(0).max(86_400);

const settings = {
  lease_seconds: z.int().min(1).max(86_400).optional(),
  max_attempts: z.int().min(1).max(100).optional(),
  retry: z
    .object({
      initial_seconds: seconds,
      factor: z.number().min(1).max(100),
      max_seconds: seconds,
      jitter: z.boolean(),
    })
    .partial()
    .optional(),
  max_depth: z.int().min(1).max(2_147_483_647).nullish(),
  max_running: z.int().min(1).max(2_147_483_647).nullish(),
};

export const registerBody = z.object({ queue: queueName, endpoint: endpointName, ...settings });
export const settingsBody = z.object(settings);
export const channelBody = z.object({ endpoint: endpointName, model: modelName, queue: queueName });
