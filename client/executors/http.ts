import type { TaskExecutor } from '../worker/executor.ts';
import { gatherAll } from './gathering.ts';
import { checkNames } from './options.ts';
import { answerOf } from './reply.ts';
import { asEvents, passOn } from './stream.ts';
import { UPSTREAMS_OPTIONS, type UpstreamsOptions, upstreamsExecutor } from './upstreams.ts';

export type HttpOptions = UpstreamsOptions;

const asText = (text: string) => ({ text });

/**
 * Has tasks answered by URLs: a task's `data` is POSTed as JSON, with `X-TASK-ID` and `X-TASK-ATTEMPT`, and the reply is the answer. A streaming task asks
 * for `text/event-stream`, whose events are passed on; its answer is then the list of them.
 */
export function httpExecutor(options: HttpOptions): TaskExecutor {
  checkNames(options, UPSTREAMS_OPTIONS, 'http');
  return upstreamsExecutor(options, {
    async answer(call) {
      const { task_id, attempt, response_mode } = call.task.task;
      const streams = response_mode === 'streaming';
      const reply = await call.post(call.base, call.task.getPayloadText(), {
        'X-TASK-ID': task_id,
        'X-TASK-ATTEMPT': String(attempt),
        Accept: streams ? 'text/event-stream, application/json' : 'application/json',
      });
      if (!streams) return answerOf(reply, asText);
      const { reply: whole, records } = await asEvents(reply);
      return records ? passOn(whole, records, call, gatherAll(), true) : answerOf(whole, asText);
    },
  });
}
