import type { TaskExecutor } from '../worker/executor.ts';
import { gatherAll } from './gathering.ts';
import { checkNames } from './options.ts';
import { answerOf } from './reply.ts';
import { eventsIn, isStream, passOn } from './stream.ts';
import { UPSTREAMS_OPTIONS, type UpstreamsOptions, upstreamsExecutor } from './upstreams.ts';

export type HttpOptions = UpstreamsOptions;

/**
 * Has tasks answered by URLs: a task's `data` is POSTed as JSON, with `X-TASK-ID` and `X-TASK-ATTEMPT`, and the reply is the answer. A streaming task asks
 * for `text/event-stream`, whose events are passed on; its answer is then the list of them.
 */
export function httpExecutor(options: HttpOptions): TaskExecutor {
  checkNames(options, UPSTREAMS_OPTIONS, 'http');
  return upstreamsExecutor(options, {
    async answer(call) {
      const { task_id, attempt, response_mode, data } = call.task.task;
      const streams = response_mode === 'streaming';
      const reply = await call.post(call.base, data, {
        'X-TASK-ID': task_id,
        'X-TASK-ATTEMPT': String(attempt),
        Accept: streams ? 'text/event-stream, application/json' : 'application/json',
      });
      if (!streams || !isStream(reply, 'text/event-stream')) return answerOf(reply, (text) => ({ text }));
      return passOn(reply, eventsIn(reply.parts), call, gatherAll(), true);
    },
  });
}
