import { setTimeout as pause } from 'node:timers/promises';
import OpenAI from 'openai';
import { type ChatRequest, chunk, completion, deltaOf } from './chat.ts';
import { answerTo, countWords } from './reader.ts';

/** What stands behind the demo worker. `onChunk` is given where the answer is to come in pieces. */
export type Model = (request: ChatRequest, onChunk?: (chunk: unknown) => Promise<void>) => Promise<unknown>;

/** How fast the demo model "writes", so that a stream can be seen. */
const WORD_MS = 40;

/** Answers by reading the request. Its tokens are words. */
export const demoModel: Model = async ({ model = 'demo', messages }, onChunk) => {
  const answer = answerTo(messages);
  for (const word of onChunk ? answer.split(/(?<= )/) : []) {
    await onChunk?.(chunk(model, word));
    await pause(WORD_MS);
  }
  const read = messages.reduce((sum, message) => sum + countWords(message.content), 0);
  const written = countWords(answer);
  return completion(model, answer, {
    prompt_tokens: read,
    completion_tokens: written,
    total_tokens: read + written,
  });
};

/** Asks the model server of OPENAI_BASE_URL. Throws OpenAI.APIError when it refuses. */
export function openAiModel(model: string, apiKey: string): Model {
  const client = new OpenAI({ apiKey });
  return async (request, onChunk) => {
    const body = { ...request, model } as OpenAI.ChatCompletionCreateParamsNonStreaming;
    if (!onChunk) return client.chat.completions.create(body);
    let content = '';
    for await (const piece of await client.chat.completions.create({ ...body, stream: true })) {
      content += deltaOf(piece);
      await onChunk(piece);
    }
    return completion(model, content);
  };
}
