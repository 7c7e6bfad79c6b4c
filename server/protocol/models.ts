import { z } from 'zod';
import { modelName, optional } from './names.ts';
import { refuse } from './openai.ts';

/** A request to a model, as far as it decides where it goes and how it is answered; the rest is the worker's to judge. */
export const modelRequest = z.looseObject({ model: modelName, stream: z.boolean().nullish() });
/** Where OpenAI's own clients leave the model out. */
const MODERATION_MODEL = 'omni-moderation-latest';
export const USUAL_MODELS: Readonly<Record<string, string>> = { '/v1/moderations': MODERATION_MODEL };
export const moderationRequest = modelRequest.extend({ model: optional(modelName, MODERATION_MODEL) });

export const modelNotFound = (model: string) =>
  refuse(404, `The model '${model}' does not exist or you do not have access to it.`, null, 'model_not_found');
