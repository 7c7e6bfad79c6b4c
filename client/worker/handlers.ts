import type { Task } from '../types.ts';
import type { RetryLater, TaskAnswer, TaskExecutor, TaskWrapper } from './executor.ts';
import { type Concurrency, createLimit, type Outcome } from './limit.ts';

/** What a handler gets beside its task. */
export type HandlerContext = {
  /** Aborts when the task is cancelled, lost, past its deadline, or the worker has no more time; `signal.reason` is a `TaskAborted`. */
  readonly signal: AbortSignal;
  /** Shown to whoever reads a streaming task; nothing is sent for others. */
  emitProgress(eventName: string, eventData: unknown, eventId?: string): void;
  /** An answer of any status: `return ctx.answer(404, { error: … })`. */
  answer(statusCode: number, body: unknown, requestId?: string): HandlerAnswer;
  /** Throws: the task is given back, to be tried again after the queue's backoff or `delay_seconds`. */
  retryLater(how?: RetryLater): never;
};

/**
 * Works on a task. What it returns is the body of an answer with status 200; what an async generator yields are events `chunk` of a streaming task, and
 * its answer what it returns or, where it returns nothing, the list of what it yielded. What it throws makes the task be tried again, and dead in the end.
 */
export type Handler<Data = Record<string, unknown>> = (
  task: Task<Data>,
  context: HandlerContext,
) => unknown | Promise<unknown> | AsyncIterable<unknown>;

/** A handler an endpoint; `*` is for all others. */
// biome-ignore lint/suspicious/noExplicitAny: each handler knows its own data
export type Handlers = Record<string, Handler<any>>;

class HandlerAnswer {
  readonly answer: TaskAnswer;
  constructor(answer: TaskAnswer) {
    this.answer = answer;
  }
}

class RetryLaterError extends Error {
  readonly how: RetryLater;
  constructor(how: RetryLater) {
    super(how.reason ?? 'to be tried again later');
    this.how = how;
  }
}

/** An executor of handlers, as many at a time as `concurrency` says. */
export function handlersExecutor(handlers: Handlers, concurrency: Concurrency): TaskExecutor {
  const limit = createLimit(concurrency);

  const work = async (task: TaskWrapper): Promise<Outcome> => {
    const handler = handlers[task.task.endpoint] ?? handlers['*'];
    try {
      if (handler === undefined) throw new Error(`there is no handler for ${task.task.endpoint}`);
      const given = await handler(task.task, contextOf(task));
      const body = isAsyncIterable(given) ? await collect(given, task) : given;
      complete(task, body instanceof HandlerAnswer ? body.answer : { status_code: 200, body });
      return 'done';
    } catch (error) {
      if (task.signal.aborted) return 'ignored';
      if (error instanceof RetryLaterError) {
        task.markRetryLater(error.how);
        return error.how.begun === false ? 'refused' : 'failed';
      }
      task.markRetryLater({ reason: String((error as Error)?.message ?? error) });
      return 'failed';
    }
  };

  return {
    submit(task) {
      const end = limit.begin();
      return work(task).then(end);
    },
    remainingCapacity: () => Math.max(limit.limit - limit.inFlight, 0),
    filled: limit.filled,
  };
}

/** An answer that can't be written would be the same the next time. */
function complete(task: TaskWrapper, answer: TaskAnswer): void {
  try {
    task.markComplete(answer);
  } catch (error) {
    const message = `the handler's answer is none: ${(error as Error).message.split('\n')[0]}`;
    task.markComplete({ status_code: 500, body: { error: { message } } });
  }
}

function contextOf(task: TaskWrapper): HandlerContext {
  return {
    signal: task.signal,
    emitProgress: task.emitProgress,
    answer: (status_code, body, request_id) => new HandlerAnswer({ status_code, body, request_id }),
    retryLater(how = {}) {
      throw new RetryLaterError(how);
    },
  };
}

async function collect(chunks: AsyncIterable<unknown>, task: TaskWrapper): Promise<unknown> {
  const yielded: unknown[] = [];
  const iterator = chunks[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await iterator.next();
    if (done) return value === undefined ? yielded : value;
    if (task.signal.aborted) {
      await iterator.return?.();
      throw task.signal.reason;
    }
    yielded.push(value);
    task.emitProgress('chunk', value);
  }
}

const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
