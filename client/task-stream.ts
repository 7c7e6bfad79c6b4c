import { resumable, type ServerSentEvent } from './event-stream.ts';
import type { CallOptions, Http } from './http.ts';
import { taskPath, throwUnanswered } from './task.ts';
import type { Result, StreamEvent } from './types.ts';

/**
 * A streaming task: its events as they come, and at last its answer. To leave the loop is to hang up: a streaming task that nobody reads is cancelled
 * after 10 seconds. It can be iterated over once. Throws TaskEndedError when there will be no answer.
 */
export type TaskStream<Body = unknown> = AsyncIterable<StreamEvent<Body>> & {
  /** Settles when the task is put, which it is when the iteration begins. */
  readonly taskId: Promise<string>;
};

/** `opening` puts the task, and gives the reply that streams it; or `taskId` names one that is there. */
export function taskStream<Body>(
  http: Http,
  options: CallOptions & { lastEventId?: string; taskId?: string; opening?: () => Promise<Response> },
): TaskStream<Body> {
  const { opening, signal, lastEventId } = options;
  let announce: (taskId: string) => void = () => undefined;
  let fail: (error: unknown) => void = () => undefined;
  const taskId = new Promise<string>((resolve, reject) => {
    announce = resolve;
    fail = reject;
  });
  taskId.catch(() => undefined);
  if (options.taskId !== undefined) announce(options.taskId);

  const isLast = ({ event }: ServerSentEvent) => event === 'completion' || event === 'error';
  async function* events(): AsyncGenerator<StreamEvent<Body>, void> {
    const first = await opening?.().catch((error) => {
      fail(error);
      throw error;
    });
    const id = options.taskId ?? first?.headers.get('x-task-id') ?? '';
    announce(id);
    for await (const event of resumable(http, taskPath(id, '/events'), {
      signal,
      first,
      lastEventId,
      isLast,
      timeoutMs: 'none',
    })) {
      if (event.event === 'completion') yield { type: 'completion', result: JSON.parse(event.data) as Result<Body> };
      else if (event.event === 'error') await throwUnanswered(http, id, { signal });
      else yield { type: 'progress', id: event.id ?? '', name: event.event ?? '', data: JSON.parse(event.data) };
    }
  }
  return { taskId, [Symbol.asyncIterator]: events };
}
