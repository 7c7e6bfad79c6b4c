import type { TaskAnswer, TaskExecutor } from '../worker/executor.ts';
import type { Call, Dialect } from './dialect.ts';
import { gatheringOf } from './gathering.ts';
import { checkNames } from './options.ts';
import { answerOf } from './reply.ts';
import { eventsIn, isStream, passOn } from './stream.ts';
import { UPSTREAMS_OPTIONS, type UpstreamsOptions, upstreamsExecutor } from './upstreams.ts';

export type OpenAiOptions = UpstreamsOptions & {
  /** The model's name at the upstreams, where it is not the task's. */
  model?: string | undefined;
};

/** Has tasks answered by servers that speak OpenAI's API: vLLM, SGLang, llama.cpp, LM Studio, OpenAI itself. */
export function openAiExecutor(options: OpenAiOptions): TaskExecutor {
  checkNames(options, [...UPSTREAMS_OPTIONS, 'model'], 'openai');
  const dialect: Dialect = {
    look: (base) => openAiUrl(base, '/models'),
    tellsLoad: true,
    answer: (call) => answerAsOpenAi(call, options.model),
  };
  return upstreamsExecutor(options, dialect);
}

/** Calls the task's endpoint, under `/v1`. A streaming task's chunks are passed on unchanged, where the endpoint streams. */
export async function answerAsOpenAi(call: Call, model?: string): Promise<TaskAnswer> {
  const { endpoint, response_mode, data } = call.task.task;
  if (!isOpenAiEndpoint(endpoint)) return unknownEndpoint(endpoint);
  const gathering = response_mode === 'streaming' ? gatheringOf(endpoint) : undefined;
  // An endpoint refuses what belongs to a stream where there is none.
  const { stream: _, stream_options, ...rest } = data;
  const body = {
    ...rest,
    ...(model !== undefined && { model }),
    ...(gathering && { stream: true, ...(stream_options !== undefined && { stream_options }) }),
  };
  const reply = await call.post(openAiUrl(call.base, endpoint.slice('/v1'.length)), body);
  if (!gathering || !isStream(reply, 'text/event-stream')) return answerOf(reply);
  return passOn(reply, eventsIn(reply.parts), call, gathering);
}

/** Under the base's path, which is `/v1` where it has none. */
function openAiUrl(base: URL, path: string): URL {
  const prefix = base.pathname.replace(/\/+$/, '') || '/v1';
  return at(base, prefix + path);
}

/** The base with another path; what follows a `?` stays. */
export const at = (base: URL, pathname: string): URL => Object.assign(new URL(base), { pathname });

/** Whoever puts a task chooses its endpoint: it must not lead elsewhere. */
const isOpenAiEndpoint = (endpoint: string): boolean => /^\/v1(\/[\w.-]+)+$/.test(endpoint) && !endpoint.includes('..');

export function unknownEndpoint(endpoint: string): TaskAnswer {
  const message = `This worker's model server has no endpoint ${endpoint}`;
  return {
    status_code: 404,
    body: { error: { message, type: 'invalid_request_error', param: null, code: 'unknown_url' } },
  };
}
