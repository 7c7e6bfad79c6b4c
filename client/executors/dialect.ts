import type { TaskAnswer, TaskWrapper } from '../worker/executor.ts';
import type { Reply } from './reply.ts';

/** One try of a task with one upstream. */
export type Call = {
  readonly task: TaskWrapper;
  readonly base: URL;
  /** What every request to this upstream carries: its key, say. */
  readonly headers: Record<string, string>;
  /** `body` is JSON. Throws NotAnswered where the reply is none to pass on. */
  post(url: URL, body: string, headers?: Record<string, string>): Promise<Reply>;
  /** Shows a part of the answer to whoever reads the task. What has been shown can't be taken back, so the task is not tried again after a failure. */
  passOn(eventName: string, eventData: unknown): void;
  /** Waits for what is no part of the call and says nothing of the server's speed. */
  aside<Value>(work: Promise<Value>): Promise<Value>;
};

/** How a kind of model server is spoken to. */
export type Dialect = {
  /** Where a GET tells whether it is there; without one, only calls do. */
  look?(base: URL): URL;
  /** Throws NotAnswered, or what broke the connection. */
  answer(call: Call): Promise<TaskAnswer>;
  close?(): void;
};
