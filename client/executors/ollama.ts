import { isObjectText, memberTexts, withMembers } from '../../server/protocol/json-text.ts';
import { JsonText, type TaskAnswer, type TaskExecutor } from '../worker/executor.ts';
import type { Call, Dialect } from './dialect.ts';
import { gatheringOf } from './gathering.ts';
import { createPulls } from './ollama-pulls.ts';
import { answerAsOpenAi, at, named, unknownEndpoint } from './openai.ts';
import { checkNames } from './options.ts';
import { answerOf, messageOf, parsed, upstreamError } from './reply.ts';
import { isLines, linesIn, passOn } from './stream.ts';
import { UPSTREAMS_OPTIONS, type UpstreamsOptions, upstreamsExecutor } from './upstreams.ts';

export type OllamaOptions = UpstreamsOptions & {
  /** The model's name at the upstreams, where it is not the task's. */
  model?: string | undefined;
  /** How long the model stays loaded, `10m` say or seconds, where the task does not say; for Ollama's own endpoints. */
  keepAlive?: string | number | undefined;
  /** Whether a model that is missing is pulled; true by default. */
  pull?: boolean | undefined;
};

const NATIVE = new Set(['/api/chat', '/api/generate', '/api/embed', '/api/embeddings']);

/**
 * Has tasks answered by Ollama, by its own API or, for endpoints under `/v1`, by its OpenAI-compatible one. A streaming task of its own API is shown the
 * pull of its model as events `pull`; chunks of OpenAI's API have no place for it.
 */
export function ollamaExecutor(options: OllamaOptions): TaskExecutor {
  checkNames(options, [...UPSTREAMS_OPTIONS, 'model', 'keepAlive', 'pull'], 'ollama');
  const { model, keepAlive, pull = true, log = () => undefined } = options;
  const pulls = createPulls(log);
  let toldOfKeepAlive = keepAlive === undefined;

  const dialect: Dialect = {
    look: (base) => under(base, '/api/version'),
    async answer(call) {
      const { endpoint } = call.task.task;
      const isNative = NATIVE.has(endpoint);
      if (!isNative && !endpoint.startsWith('/v1/')) return unknownEndpoint(endpoint);
      if (!isNative && !toldOfKeepAlive) {
        log(
          `keep-alive has no effect on tasks for ${endpoint}: Ollama heeds it at its own endpoints alone, such as /api/chat`,
        );
        toldOfKeepAlive = true;
      }
      const ask = () =>
        isNative
          ? answerNatively(call, { model, keepAlive })
          : answerAsOpenAi({ ...call, base: under(call.base, '/v1') }, { ...named(model), ...limited(call) });
      const answer = await ask();
      if (!pull || !isMissingModel(answer)) return answer;
      const name = model ?? call.task.task.data.model;
      if (typeof name !== 'string') return answer;
      const failure = await call.aside(
        pulls.pull(call, under(call.base, '/api/pull'), name, (progress) => {
          if (isNative) call.task.emitProgress('pull', progress);
        }),
      );
      if (failure === undefined) return ask();
      return { status_code: 404, body: isNative ? { error: failure } : upstreamError(failure) };
    },
    close: pulls.stop,
  };
  return upstreamsExecutor(options, dialect);
}

async function answerNatively(
  call: Call,
  { model, keepAlive }: Pick<OllamaOptions, 'model' | 'keepAlive'>,
): Promise<TaskAnswer> {
  const { endpoint, response_mode } = call.task.task;
  const gathering = gatheringOf(endpoint);
  const streams = gathering !== undefined && response_mode === 'streaming';
  const text = call.task.getPayloadText();
  const keeps = keepAlive !== undefined && !membersOf(text).has('keep_alive');
  const body = withMembers(text, {
    ...(keeps && { keep_alive: JSON.stringify(keepAlive) }),
    ...named(model),
    // It streams where it is not told otherwise.
    stream: gathering && String(streams),
  });
  const reply = await call.post(under(call.base, endpoint), body);
  if (!streams || !isLines(reply)) return answerOf(reply);
  return passOn(reply, linesIn(reply.parts, reply.maxBytes), call, gathering);
}

/** Ollama knows the older name of the limit alone, and without one generates for as long as the model does not stop. */
function limited(call: Call): { max_tokens?: string } {
  const members = membersOf(call.task.getPayloadText());
  const limit = members.get('max_completion_tokens') ?? 'null';
  return limit === 'null' || (members.get('max_tokens') ?? 'null') !== 'null' ? {} : { max_tokens: limit };
}

const membersOf = (text: string) => (isObjectText(text) ? memberTexts(text) : new Map<string, string>());

function isMissingModel({ status_code, body }: TaskAnswer): boolean {
  const message = body instanceof JsonText ? messageOf(parsed(body.text)) : undefined;
  return status_code === 404 && message !== undefined && /model.*not found/i.test(message);
}

const under = (base: URL, path: string): URL => at(base, base.pathname.replace(/\/+$/, '') + path);
