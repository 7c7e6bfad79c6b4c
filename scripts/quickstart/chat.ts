/** The part of OpenAI's chat completions that the quickstart speaks. */
import { randomUUID } from 'node:crypto';

export type Message = { role: string; content: string };
export type ChatRequest = { model?: string; messages: Message[] };
export type Usage = { prompt_tokens: number; completion_tokens: number; total_tokens: number };

export function completion(model: string, content: string, usage?: Usage) {
  return {
    id: `chatcmpl-${randomUUID()}`,
    object: 'chat.completion',
    created: Math.floor(Date.now() / 1000),
    model,
    choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }],
    ...(usage && { usage }),
  };
}

export function chunk(model: string, content: string) {
  return {
    object: 'chat.completion.chunk',
    model,
    choices: [{ index: 0, delta: { content }, finish_reason: null }],
  };
}

/** What the assistant says in a completion, or undefined when it is none. */
export function contentOf(body: unknown): string | undefined {
  const content = firstChoice(body)?.message?.content;
  return typeof content === 'string' && content !== '' ? content : undefined;
}

/** What a chunk of a stream adds; '' for a chunk without text. */
export function deltaOf(body: unknown): string {
  const content = firstChoice(body)?.delta?.content;
  return typeof content === 'string' ? content : '';
}

type Choice = { message?: { content?: unknown }; delta?: { content?: unknown } };

function firstChoice(body: unknown): Choice | undefined {
  return (body as { choices?: Choice[] } | null | undefined)?.choices?.[0];
}
