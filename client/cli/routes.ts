import type { Client } from '../client.ts';
import { BadRequestError } from '../errors.ts';
import { EXIT, Failure } from './failure.ts';

/** Endpoints that serve a kind of task, the likeliest first. */
export const ENDPOINTS = {
  chat: ['/v1/chat/completions', '/api/chat'],
  generate: ['/v1/completions', '/api/generate', '/v1/chat/completions', '/api/chat'],
  embed: ['/v1/embeddings', '/api/embed'],
} as const;

export type Kind = keyof typeof ENDPOINTS;

/**
 * Does it at the endpoint that the task is for: the one that is given, that of its queue, or the first one where its model has a route.
 * `act` must leave nothing behind when it throws for want of a route.
 */
export async function atEndpoint<Done>(
  client: Client,
  kind: Kind,
  task: { endpoint?: string | undefined; queue?: string | undefined; model?: string | undefined },
  act: (endpoint: string) => Promise<Done>,
): Promise<Done> {
  if (task.endpoint !== undefined) return act(task.endpoint);
  if (task.queue !== undefined) return act((await client.queues.get(task.queue)).endpoint);
  for (const endpoint of ENDPOINTS[kind]) {
    try {
      return await act(endpoint);
    } catch (error) {
      if (!(error instanceof BadRequestError && error.message.includes('no route for model'))) throw error;
    }
  }
  throw noRoute(kind, task.model);
}

export const noRoute = (kind: Kind, model: string | undefined): Failure =>
  new Failure(
    `no route for model ${model} at ${ENDPOINTS[kind].join(', ')}`,
    EXIT.usage,
    `register a queue: tasklane queues register NAME --endpoint ${ENDPOINTS[kind][0]}; and route to it: tasklane channels add --model ${model} --queue NAME`,
  );
