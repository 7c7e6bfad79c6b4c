import { ApiError } from './errors.ts';
import { resumable } from './event-stream.ts';
import { bodyOf, type CallOptions, type Http, type RequestOptions } from './http.ts';
import { type Page, pages } from './page.ts';
import { hasEnded, readTask, taskPath, throwUnanswered } from './task.ts';
import { type TaskStream, taskStream } from './task-stream.ts';
import type {
  EventType,
  FeedEvent,
  FeedFilter,
  Priority,
  Put,
  ResponseMode,
  Task,
  TaskExplanation,
  TaskFilter,
} from './types.ts';

/** What a worker answered to a task that was waited for. */
export type Answer<Body = unknown> = { task_id: string; status_code: number; body: Body };

const PUTS = 1000;
const ENDINGS: readonly EventType[] = ['completed', 'failed', 'dead', 'expired', 'cancelled'];
/** What a reply says of a task that has ended without an answer; a worker may say so too. */
const UNANSWERED_STATUS = new Set([408, 499, 502]);

export function tasksOf(http: Http) {
  return {
    /**
     * Puts a task, and gives its id once it is committed. A repeat, this client's own too, puts nothing more: under its `idempotency_key`, or a random one.
     * Throws BadRequestError with the fields at fault, NotFoundError for an unknown queue, RateLimitError over a limit.
     */
    async put(put: Put, options: CallOptions = {}): Promise<string> {
      const { data } = await http.json<{ data: string }>('POST', '/v1/queue/put', request(put, 'callback', options));
      return data;
    },

    /** Puts any number of tasks, and gives their ids in order. Each 1,000 of them are put all or none. */
    async puts(puts: readonly Put[], options: CallOptions = {}): Promise<string[]> {
      const ids: string[] = [];
      for (let from = 0; from < puts.length; from += PUTS) {
        const { data } = await http.json<{ data: string[] }>('POST', '/v1/queue/puts', {
          ...options,
          body: { tasks: puts.slice(from, from + PUTS) },
          headers: { 'Idempotency-Key': crypto.randomUUID() },
          repeatable: true,
        });
        ids.push(...data);
      }
      return ids;
    },

    /**
     * Puts a task and waits for its answer, whatever its status code. `timeout` is 300 seconds by default, and at most 600. To abort it cancels the task, 10 seconds later:
     * until then it could come back.
     * Throws TaskEndedError when there will be no answer.
     */
    async putAndWait<Body = unknown>(put: Put, options: CallOptions = {}): Promise<Answer<Body>> {
      try {
        const reply = await http.open('POST', '/v1/queue/put', request(put, 'blocking', options));
        const taskId = reply.headers.get('x-task-id') ?? '';
        return { task_id: taskId, status_code: reply.status, body: (await bodyOf(reply)) as Body };
      } catch (error) {
        if (!(error instanceof ApiError) || error.taskId === undefined) throw error;
        const { taskId, status, body } = error;
        if (UNANSWERED_STATUS.has(status)) await throwUnanswered(http, taskId, options);
        return { task_id: taskId, status_code: status, body: body as Body };
      }
    },

    /** Puts a task and streams its events. Where the connection breaks, it goes on on another, and no event is lost or comes twice. */
    stream<Body = unknown>(put: Put, options: CallOptions = {}): TaskStream<Body> {
      const opening = () => http.open('POST', '/v1/queue/put', request(put, 'streaming', options));
      return taskStream<Body>(http, { opening, ...options });
    },

    /** Reads a streaming task, too: from its first event on, or after the one that `lastEventId` names. */
    follow<Body = unknown>(taskId: string, options: CallOptions & { lastEventId?: string } = {}): TaskStream<Body> {
      return taskStream<Body>(http, { taskId, ...options });
    },

    /** A task with its state, its attempts and, once it has one, its result. Throws NotFoundError. */
    get: (taskId: string, options: CallOptions = {}): Promise<Task> => readTask(http, taskId, options),

    /** Why a task is where it is: what it waits for, who has it, or how it ended. Throws NotFoundError. */
    explain: (taskId: string, options: CallOptions = {}): Promise<TaskExplanation> =>
      http.json('GET', taskPath(taskId, '/explain'), options),

    /** Waits until a task has ended, in whatever mode it was put, and gives it. It costs a connection meanwhile. */
    async wait(taskId: string, options: CallOptions = {}): Promise<Task> {
      const query = feedQuery({ task_id: taskId, types: ENDINGS });
      // Looked at whenever a connection is open, too: it may have ended while none was.
      for await (const _ of resumable(http, '/v1/events', { ...options, query, tellsOpen: true })) {
        const task = await readTask(http, taskId, options);
        if (hasEnded(task)) return task;
      }
      throw new Error('the feed has no end');
    },

    /** Tasks, newest first unless `order` says `asc`. `limit` is that of a page: 20 by default, at most 1,000. */
    list(filter: TaskFilter & { order?: 'asc' | 'desc'; limit?: number } = {}, options: CallOptions = {}): Page<Task> {
      return pages(
        (after) => http.json('GET', '/v1/tasks', { ...options, query: { ...filter, after } }),
        (task) => task.task_id,
      );
    },

    /** Withdraws a task that has not ended; its worker learns of it within seconds. Throws ConflictError when it has. */
    async cancel(taskId: string, options: CallOptions = {}): Promise<void> {
      await http.json('POST', taskPath(taskId, '/cancel'), options);
    },

    /** Of a task that waits or is deferred; else throws ConflictError. */
    setPriority(taskId: string, priority: Priority, options: CallOptions = {}): Promise<Task> {
      return http.json('PATCH', taskPath(taskId), { ...options, body: { priority } });
    },

    /**
     * What happens to tasks from now on, or after the event that `lastEventId` names. Where the connection breaks, it goes on on another after
     * the last event that came. It has no end but that of the loop.
     */
    async *events(
      filter: FeedFilter & { lastEventId?: string } = {},
      options: CallOptions = {},
    ): AsyncGenerator<FeedEvent, void> {
      const { lastEventId, ...rest } = filter;
      for await (const { id, data } of resumable(http, '/v1/events', {
        ...options,
        query: feedQuery(rest),
        lastEventId,
      })) {
        yield { id: id ?? '', ...JSON.parse(data) };
      }
    },

    /** Dead tasks: their attempts are exhausted. */
    dead: {
      list(filter: { queue?: string; limit?: number } = {}, options: CallOptions = {}): Page<Task> {
        return pages(
          (after) => http.json('GET', '/v1/dead', { ...options, query: { ...filter, after } }),
          (task) => task.task_id,
        );
      },
      /** Gives a dead task a new life under its id. Throws ConflictError for one that is not dead. */
      async replay(taskId: string, options: CallOptions = {}): Promise<void> {
        await http.json('POST', taskPath(taskId, '/replay'), options);
      },
      /** Replays a queue's dead tasks, the oldest first, and says how many. */
      async replayAll(which: { queue: string; limit?: number }, options: CallOptions = {}): Promise<number> {
        const reply = await http.json<{ replayed: number }>('POST', '/v1/dead/replay', { ...options, body: which });
        return reply.replayed;
      },
      /** Removes a queue's dead tasks for good. */
      async purge(queue: string, options: CallOptions = {}): Promise<void> {
        await http.json('DELETE', '/v1/dead', { ...options, query: { queue } });
      },
    },
  };
}

/** The key makes a repeat find the task that is there, so that it may be repeated. */
function request(put: Put, mode: ResponseMode, options: CallOptions): RequestOptions {
  return {
    ...options,
    body: { ...put, response_mode: mode },
    headers: put.idempotency_key === undefined ? { 'Idempotency-Key': crypto.randomUUID() } : {},
    repeatable: true,
    ...(mode === 'callback' ? {} : { timeoutMs: 'none' as const }),
  };
}

const feedQuery = ({ types, ...filter }: FeedFilter) => ({ ...filter, types: types?.join(',') });
