import { withMembers } from '../../server/protocol/json-text.ts';
import type { TaskAnswer, TaskExecutor } from '../worker/executor.ts';
import type { Call, Dialect } from './dialect.ts';
import { gatheringOf } from './gathering.ts';
import { checkNames } from './options.ts';
import { answerOf } from './reply.ts';
import { asEvents, passOn } from './stream.ts';
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
    answer: (call) => answerAsOpenAi(call, named(options.model)),
  };
  return upstreamsExecutor(options, dialect);
}

/** The members that give a request the name of an option. */
export const named = (model: string | undefined): Record<string, string> =>
  model === undefined ? {} : { model: JSON.stringify(model) };

/**
 * Calls the task's endpoint, under `/v1`, with the task's data to the letter but for `stream` and what `changes` has. A streaming task's chunks are passed on
 * unchanged, where the endpoint streams.
 */
export async function answerAsOpenAi(call: Call, changes: Readonly<Record<string, string>>): Promise<TaskAnswer> {
  const { endpoint, response_mode } = call.task.task;
  if (!isOpenAiEndpoint(endpoint)) return unknownEndpoint(endpoint);
  const gathering = response_mode === 'streaming' ? gatheringOf(endpoint) : undefined;
  const body = withMembers(call.task.getPayloadText(), {
    ...changes,
    // An endpoint refuses what belongs to a stream where there is none.
    ...(gathering ? { stream: 'true' } : { stream: undefined, stream_options: undefined }),
  });
  const reply = await call.post(openAiUrl(call.base, endpoint.slice('/v1'.length)), body);
  if (!gathering) return answerOf(reply);
  const { reply: whole, records } = await asEvents(reply);
  return records ? passOn(whole, records, call, gathering) : answerOf(whole);
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
