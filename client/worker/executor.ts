import type { Task } from '../types.ts';

/** What a task is answered with. `status_code` 200-299 makes it `succeeded`, anything else up to 599 `failed`. */
export type TaskAnswer = {
  status_code: number;
  /** Any JSON; a `JsonText` reaches the client to the letter. */
  body: unknown;
  /** Whose request it was, say of the model server; the task's id by default. */
  request_id?: string | undefined;
  /** What the model server said of the request besides, for whoever put it: `x-request-id`, `openai-processing-ms`, `x-ratelimit-…`, in lower case. */
  headers?: Record<string, string> | undefined;
};

export type RetryLater = {
  /** Seconds until the task may be taken again; the queue's backoff decides where there are none. */
  delay_seconds?: number | undefined;
  /** Why, for the task's list of attempts; at most 512 characters. */
  reason?: string | undefined;
  /** false: nothing was done for the task (the model server refused it, say), so the attempt does not count. */
  begun?: boolean | undefined;
  /** What the model server said. The task ends with it where it is tried no more. */
  answer?: TaskAnswer | undefined;
};

/** An upstream as its worker sees it. */
export type UpstreamReport = {
  url: string;
  /** `refusing` and `failing`: nothing else has come from it since. `away`: it is not used until it answers again. */
  state: 'healthy' | 'refusing' | 'failing' | 'away';
  /** Epoch milliseconds: since when it is so. */
  since: number;
  /** Of its last refusal or failure, where it is not healthy. */
  status?: number | undefined;
  message?: string | undefined;
  in_flight: number;
  limit: number;
  /** The only queues it serves; all where there are none. */
  queues?: readonly string[] | undefined;
};

/** JSON that is passed on as it is written: `1.0` stays `1.0`. */
export class JsonText {
  readonly text: string;

  /** `text` must be valid JSON; throws SyntaxError when it is not. */
  constructor(text: string) {
    JSON.parse(text);
    this.text = text;
  }
}

/** A task in a worker's hands, as Bella-Queue's `TaskWrapper`. It ends with the first `markComplete` or `markRetryLater`; later ones do nothing. */
export type TaskWrapper<Data = Record<string, unknown>> = {
  readonly task: Task<Data>;
  /** Aborts when there is nobody to work for any more: `signal.reason` is a `TaskAborted`. */
  readonly signal: AbortSignal;
  getPayload(): Data;
  /** The payload as it was put, to the letter: JSON. */
  getPayloadText(): string;
  /** The largest body that the server takes for an answer. */
  readonly maxAnswerBytes: number;
  /** Shown to whoever reads a streaming task, in order. Nothing is sent for other tasks. */
  emitProgress(eventName: string, eventData: unknown, eventId?: string): void;
  markComplete(answer: TaskAnswer): void;
  markRetryLater(how?: RetryLater): void;
};

/** Why a task's signal has aborted. */
export class TaskAborted extends Error {
  readonly why: 'cancelled' | 'lost' | 'deadline' | 'stopping';

  constructor(why: TaskAborted['why']) {
    super(
      {
        cancelled: 'the task was cancelled',
        lost: 'the task is no longer ours',
        deadline: "the task's deadline has passed",
        stopping: 'the worker is stopping',
      }[why],
    );
    this.name = 'TaskAborted';
    this.why = why;
  }
}

/** What works on tasks. The worker takes no more than there is capacity for, and submits each task once. */
export type TaskExecutor = {
  /**
   * Begins to work on a task. It may return at once, or a promise for when it is done with it. What it throws, or the promise rejects with, makes the
   * task be tried again later.
   */
  submit(task: TaskWrapper): void | Promise<void>;
  /** How many more tasks of a queue can begin now; 0 makes them wait in their queue. One by default. */
  remainingCapacity?(queue: string): number;
  /** Queues with the same group share their capacity; all do by default. */
  groupOf?(queue: string): string;
  /** Called once, before the first task: `tell` is to be called when capacity has come without the end of a task, and when an upstream goes or comes. */
  onChange?(tell: () => void): void;
  /** How its upstreams are; told to the server, for those who look why a task waits. */
  upstreams?(): readonly UpstreamReport[];
  /** Whether anything can be done at all; rejects with what is wrong, in words for a person. Called once, before the first take. */
  check?(): Promise<void>;
  /** Called when the worker has stopped. */
  close?(): Promise<void> | void;
};
