import type { ServerResponse } from 'node:http';
import type { Ending } from '../db/read-tasks.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { memberTexts, minifyJson } from '../protocol/json.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { type Attended, replyOf, unanswered } from './answers.ts';
import { hangUp } from './give-up.ts';
import { openAiErrorBody, type Reply } from './route.ts';
import { openSse } from './sse.ts';

/** How an endpoint writes its stream: `named` records have an `event:` line, and `[DONE]` comes last where it is `terminated`. */
export type StreamStyle = { named: boolean; terminated: boolean };

/**
 * Sends what the worker reports as OpenAI sends chunks. Nothing is sent before the first one, so what goes wrong by then is a reply with
 * its own status, and a further attempt is not noticed. After it, a further attempt would say the same again: the stream ends with an error.
 */
export async function answerChunks(
  tasks: Tasks,
  put: Attended,
  style: StreamStyle,
  res: ServerResponse,
): Promise<Reply> {
  const signal = hangUp(res);
  const leave = tasks.readers.stay(put);
  let sse: ReturnType<typeof openSse> | undefined;
  let attempt: number | null = null;
  let ended = false;
  const send = (name: string, data: string) => {
    sse ??= openSse(res, { 'X-TASK-ID': put.task_id });
    return sse.write(style.named ? `event: ${typeOf(data) ?? name}\ndata: ${data}\n\n` : `data: ${data}\n\n`);
  };
  try {
    for await (const news of tasks.follow(put.id, 0, signal)) {
      if ('event' in news) {
        const { event } = news;
        if (event.data === null || event.data === 'null') continue;
        if (sse && event.attempt !== attempt) {
          await send('error', BROKEN_OFF);
          break;
        }
        attempt = event.attempt;
        await send(event.name, minifyJson(event.data));
        continue;
      }
      ended = true;
      const { ending } = news;
      if (!sse && ending.outcome !== 'succeeded') return replyOf(res, put.task_id, ending);
      const fault = sse && faultOf(ending, attempt);
      if (fault) await send('error', fault);
      else {
        if (!sse) await send('completion', minifyJson(ending.body as string));
        if (style.terminated) await sse?.write('data: [DONE]\n\n');
      }
    }
    sse?.end();
    return undefined;
  } catch (error) {
    // Cut off rather than closed: a stream that closes looks complete.
    if (res.headersSent) res.destroy();
    throw error;
  } finally {
    leave(ended);
  }
}

const errorText = (status: number, message: string, code: string) =>
  JSON.stringify(openAiErrorBody(new TasklaneError(status, message, { openai: { param: null, code } })));

const BROKEN_OFF = errorText(502, 'the worker was lost in the middle of its answer', 'stream_broken_off');

/** What a stream that has begun, by this attempt, is told of an end that does not complete it. */
function faultOf(ending: Ending, attempt: number | null): string | undefined {
  if (ending.body === null) return JSON.stringify(openAiErrorBody(unanswered(ending)));
  if (ending.outcome === 'failed') {
    return (
      errorIn(ending.body) ??
      errorText(ending.status_code, `the worker failed with status ${ending.status_code}`, 'worker_failed')
    );
  }
  return ending.attempt === attempt ? undefined : BROKEN_OFF;
}

/** The error that a worker's body carries, in OpenAI's envelope. */
function errorIn(body: string): string | undefined {
  const { error } = Object(JSON.parse(body));
  return error ? `{"error":${minifyJson(memberTexts(body).get('error') as string)}}` : undefined;
}

/** The `type` of an event, if it has one that can stand in a line. */
function typeOf(data: string): string | undefined {
  const { type } = Object(JSON.parse(data));
  return typeof type === 'string' && /^[^\r\n]+$/.test(type) ? type : undefined;
}
