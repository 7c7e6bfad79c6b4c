import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Task } from '../../../client/types.ts';
import {
  JsonText,
  type RetryLater,
  TaskAborted,
  type TaskAnswer,
  type TaskExecutor,
  type TaskWrapper,
} from '../../../client/worker/executor.ts';

/** How a task left an executor: answered, given back, or left alone. */
export type Outcome = { answer?: TaskAnswer; later?: RetryLater };
export type Recorded = TaskWrapper & {
  /** What was emitted: the names, and the data as JSON. */
  readonly events: [string, string][];
  readonly outcome: Outcome;
  /** Resolves when the next event comes. */
  nextEvent(): Promise<void>;
  cancel(): void;
};

let tasks = 0;

/** A task in the hands of nobody, which records what is done with it; `dataText`: its data as it was put. */
export function recorded(
  fields: Partial<Task> = {},
  { dataText, maxAnswerBytes = 1 << 26 }: { dataText?: string; maxAnswerBytes?: number } = {},
): Recorded {
  const controller = new AbortController();
  const events: [string, string][] = [];
  const outcome: Outcome = {};
  let heard = Promise.withResolvers<void>();
  const task = { ...TASK, task_id: `TASK-${++tasks}`, ...fields } as Task;
  const isOver = () => 'answer' in outcome || 'later' in outcome;
  return {
    task,
    events,
    outcome,
    signal: controller.signal,
    nextEvent: () => heard.promise,
    cancel: () => controller.abort(new TaskAborted('cancelled')),
    getPayload: () => task.data,
    getPayloadText: () => dataText ?? JSON.stringify(task.data),
    maxAnswerBytes,
    emitProgress(name, data) {
      events.push([name, data instanceof JsonText ? data.text : JSON.stringify(data)]);
      heard.resolve();
      heard = Promise.withResolvers<void>();
    },
    markComplete(answer) {
      if (!isOver()) outcome.answer = answer;
    },
    markRetryLater(how = {}) {
      if (!isOver()) outcome.later = how;
    },
  };
}

const TASK = {
  task_id: 'TASK-chat-0-C-261128120000-0000-000001',
  queue: 'chat',
  level: 0,
  attempt: 1,
  endpoint: '/v1/chat/completions',
  response_mode: 'callback',
  data: { model: 'llama3', messages: [{ role: 'user', content: 'hello' }] },
};

/** Has a task worked on, to its end. */
export async function work(executor: TaskExecutor, task: Recorded = recorded()): Promise<Outcome> {
  await executor.submit(task);
  return task.outcome;
}

/** An answer with its body parsed, as who reads it gets it. */
export function answered({ answer, later }: Outcome): { status: number; body: unknown } {
  if (answer === undefined) throw new Error(`not answered: ${JSON.stringify(later)}`);
  const { status_code, body } = answer;
  return { status: status_code, body: body instanceof JsonText ? JSON.parse(body.text) : body };
}

/** What a task was given back with, as who reads it gets it; an attempt that counts has `begun: undefined`. */
export function givenBack({ later }: Outcome) {
  if (later === undefined) throw new Error('not given back');
  const { reason, begun, delay_seconds, answer } = later;
  return { reason, begun, delay_seconds, ...(answer && answered({ answer })) };
}

export type Heard = { method: string; url: string; headers: IncomingHttpHeaders; body: string };

/** A model server that answers as it is told, on a port of its own. */
export async function listen(answer: (heard: Heard, res: ServerResponse, count: number) => unknown, port = 0) {
  const requests: Heard[] = [];
  const server = createServer(async (req: IncomingMessage, res) => {
    let body = '';
    for await (const part of req.setEncoding('utf8')) body += part;
    const heard = { method: req.method as string, url: req.url as string, headers: req.headers, body };
    requests.push(heard);
    await answer(heard, res, requests.length);
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const address = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${address.port}`,
    port: address.port,
    requests,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
    [Symbol.asyncDispose]() {
      return this.close();
    },
  };
}

export function json(res: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  res.writeHead(status, { 'Content-Type': 'application/json', ...headers });
  res.end(typeof body === 'string' ? body : JSON.stringify(body));
}
