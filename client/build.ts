import type { Put } from './types.ts';

export type ChatMessage = {
  role: 'system' | 'user' | 'assistant' | 'tool' | 'developer';
  content: unknown;
  [field: string]: unknown;
};

/** Any option of a put but its data; `parameters` are sent to the model as they are: temperature, max_tokens, Ollama's `options`. */
export type BuilderOptions = Partial<Omit<Put, 'data'>> & { parameters?: Record<string, unknown> };

/**
 * A chat task. Its endpoint is `/v1/chat/completions`, or Ollama's `/api/chat`. `system` goes before the messages; `stream` asks the model server to stream.
 */
export function chat(
  task: BuilderOptions & { model: string; messages: readonly ChatMessage[]; system?: string; stream?: boolean },
): Put {
  const { model, messages, system, stream, parameters, ...options } = task;
  const all = system === undefined ? messages : [{ role: 'system', content: system }, ...messages];
  return put(options, '/v1/chat/completions', { model, messages: all, stream, ...parameters });
}

/**
 * A text to be completed. Its endpoint is `/v1/completions`; at Ollama's `/api/generate` `system`, `template` and `raw` are the server's own, and at
 * a chat endpoint the prompt is the user's message.
 */
export function generate(
  task: BuilderOptions & {
    model: string;
    prompt: string;
    system?: string;
    template?: string;
    raw?: boolean;
    stream?: boolean;
  },
): Put {
  const { model, prompt, system, template, raw, stream, parameters, ...options } = task;
  if (options.endpoint?.endsWith('/chat/completions') || options.endpoint?.endsWith('/chat')) {
    const given = { model, messages: [{ role: 'user' as const, content: prompt }], ...options };
    return chat({ ...given, ...defined({ system, stream, parameters }) });
  }
  return put(options, '/v1/completions', { model, prompt, system, template, raw, stream, ...parameters });
}

/** A text, or several, to be embedded. Its endpoint is `/v1/embeddings`, or Ollama's `/api/embed`. `truncate`: cut what is too long, rather than fail. */
export function embed(
  task: BuilderOptions & { model: string; input: string | readonly string[]; truncate?: boolean },
): Put {
  const { model, input, truncate, parameters, ...options } = task;
  return put(options, '/v1/embeddings', { model, input, truncate, ...parameters });
}

function put(options: Partial<Put>, endpoint: string, data: Record<string, unknown>): Put {
  return { endpoint, ...defined(options), data: defined(data) };
}

const defined = <Fields extends object>(fields: Fields) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof Fields]: Exclude<Fields[Name], undefined>;
  };
