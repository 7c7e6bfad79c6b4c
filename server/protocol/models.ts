import { z } from 'zod';
import { modelName, optional } from './names.ts';
import { refuse } from './openai.ts';

/** A request to a model, as far as it decides where it goes and how it is answered; the rest is the worker's to judge. */
export const modelRequest = z.looseObject({ model: modelName, stream: z.boolean().nullish() });
/** Where OpenAI's own clients leave the model out. */
const MODERATION_MODEL = 'omni-moderation-latest';
export const USUAL_MODELS: Readonly<Record<string, string>> = { '/v1/moderations': MODERATION_MODEL };
export const moderationRequest = modelRequest.extend({ model: optional(modelName, MODERATION_MODEL) });

/** `endpoints`: where there is such a model, though not here. */
export const modelNotFound = (model: string, endpoint = '', endpoints: readonly string[] = []) =>
  refuse(
    404,
    elsewhere('The model', model, endpoint, endpoints) ??
      `The model '${model}' does not exist or you do not have access to it.`,
    null,
    'model_not_found',
  );

/** That a model is served at other endpoints than this one; undefined when it is at none. */
export const elsewhere = (what: string, model: string, endpoint: string, endpoints: readonly string[]) =>
  endpoints.length === 0
    ? undefined
    : `${what} '${model}' is not served at ${endpoint}, but at ${endpoints.join(', ')}.`;
