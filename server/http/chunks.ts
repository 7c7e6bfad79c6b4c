import type { ServerResponse } from 'node:http';
import { minifyJson } from '../protocol/json.ts';
import { refuse } from '../protocol/openai.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { type Attended, replyOf } from './answers.ts';
import { hangUp } from './give-up.ts';
import type { Reply } from './route.ts';
import { openSse } from './sse.ts';
import { BROKEN_OFF, errorEvent, errorRecord, type Fault, faultIn } from './stream-fault.ts';

/** How an endpoint writes its stream: chat completions and completions, or the events of the Responses API. */
export type StreamStyle = 'chunks' | 'events';

/**
 * Sends what the worker reports as OpenAI sends chunks. Nothing is sent before the first one, so what goes wrong by then is a reply with
 * its own status, and a further attempt is not noticed. After it, a further attempt would say the same again: the stream breaks off with an error.
 */
export async function answerChunks(
  tasks: Tasks,
  put: Attended,
  style: StreamStyle,
  res: ServerResponse,
): Promise<Reply> {
  const signal = hangUp(res);
  const leave = tasks.readers.stay(put);
  const stream = openStream(res, put.task_id, style);
  let attempt: number | null = null;
  let ended = false;
  try {
    for await (const news of tasks.follow(put.id, 0, signal)) {
      if ('event' in news) {
        const { event } = news;
        if (event.data === null || event.data === 'null') continue;
        if (stream.hasBegun && event.attempt !== attempt) break;
        attempt = event.attempt;
        await stream.send(event.name, minifyJson(event.data));
        continue;
      }
      ended = true;
      const { ending } = news;
      const isWhole = ending.outcome === 'succeeded' && (!stream.hasBegun || ending.attempt === attempt);
      if (!isWhole && !stream.hasBegun) return replyOf(res, put.task_id, ending);
      if (!isWhole) return await stream.breakOff(ending.outcome === 'succeeded' ? BROKEN_OFF : faultIn(ending));
      if (!stream.hasBegun) await stream.send('completion', minifyJson(ending.body as string));
      return await stream.end();
    }
    if (signal.aborted) return undefined;
    if (!stream.hasBegun) throw refuse(502, BROKEN_OFF.error.message as string, null, 'stream_broken_off');
    return await stream.breakOff(BROKEN_OFF);
  } catch (error) {
    if (stream.hasBegun) await stream.breakOff(BROKEN_OFF);
    throw error;
  } finally {
    leave(ended);
  }
}

/** The last events of the Responses API: nothing follows them. */
const LAST = new Set(['response.completed', 'response.incomplete', 'response.failed']);

function openStream(res: ServerResponse, taskId: string, style: StreamStyle) {
  let sse: ReturnType<typeof openSse> | undefined;
  let last: string | undefined;
  let sequenceNumber = -1;
  return {
    get hasBegun() {
      return sse !== undefined;
    },

    async send(name: string, data: string): Promise<void> {
      sse ??= openSse(res, { 'X-TASK-ID': taskId });
      if (style === 'chunks') return sse.write(`data: ${data}\n\n`);
      const { type, sequence_number: number } = Object(JSON.parse(data));
      last = type;
      if (Number.isSafeInteger(number)) sequenceNumber = number;
      // Only a type that can stand in a line names its event.
      const event = typeof type === 'string' && /^[^\r\n]+$/.test(type) ? type : name;
      return sse.write(`event: ${event}\ndata: ${data}\n\n`);
    },

    async end(): Promise<undefined> {
      if (style === 'chunks') await sse?.write('data: [DONE]\n\n');
      sse?.end();
    },

    /** Ends the stream as a broken connection does, for some clients pass over the error; one whose last event was sent ends well. */
    async breakOff(fault: Fault): Promise<undefined> {
      if (last !== undefined && LAST.has(last)) sse?.end();
      else if (last === 'error') await sse?.cut('');
      else await sse?.cut(style === 'chunks' ? errorRecord(fault) : errorEvent(fault, sequenceNumber + 1));
    },
  };
}
