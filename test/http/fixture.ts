import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import {
  type Answer,
  type Json,
  openStream,
  type RequestOptions,
  type Server,
  startServer,
} from '../support/server.ts';

export const CHAT = '/v1/chat/completions';
export const EMBED = '/v1/embeddings';
/** Parses, and belongs to no task. */
export const NO_SUCH_TASK = 'TASK-1-0-C-250101000000-0000-000001';

/** A server for the test file, with keys of each role, and short ways to put and take. */
export function fixture(env: Record<string, string> = {}) {
  let server: Server;
  const keys = { client: '', worker: '', admin: '', other: '' };
  let second: Promise<Server> | undefined;
  let queues = 0;
  before(async () => {
    server = await startServer({ env });
    [keys.client, keys.worker, keys.admin, keys.other] = await Promise.all([
      server.key('client'),
      server.key('worker'),
      server.key('admin'),
      server.key('client', 'other'),
    ]);
  });
  after(async () => {
    await (await second)?.stop();
    await server?.stop();
  });

  const as =
    (role: keyof typeof keys) =>
    (method: string, path: string, body?: unknown, options: RequestOptions = {}): Promise<Answer> =>
      server.request(method, path, body, { key: keys[role], ...options });
  const client = as('client');
  const worker = as('worker');
  const taskOf = (more: object) => ({ endpoint: CHAT, data: {}, ...more });

  return {
    get server() {
      return server;
    },
    keys,
    client,
    worker,
    admin: as('admin'),
    /** A client of another tenant. */
    other: as('other'),

    /** Another server of the same database. */
    second(): Promise<Server> {
      second ??= startServer({ url: server.databaseUrl, env });
      return second;
    },

    /** A new queue's name. */
    async queue(endpoint = CHAT, settings: object = {}): Promise<string> {
      const queue = `q${++queues}`;
      const made = await worker('POST', '/v1/queue/register', { queue, endpoint, ...settings });
      assert.equal(made.status, 200, made.text);
      return queue;
    },

    /** Puts a callback task and gives its id. */
    async put(queue: string, more: object = {}): Promise<string> {
      const answer = await client('POST', '/v1/queue/put', taskOf({ queue, ...more }));
      assert.equal(answer.status, 200, answer.text);
      return answer.json.data;
    },

    tryPut: (more: object) => client('POST', '/v1/queue/put', taskOf(more)),

    /** The tasks that a take gives, of all lanes. */
    async take(lanes: string | string[], more: object = {}): Promise<Json[]> {
      const answer = await worker('POST', '/v1/queue/take', { queues: [lanes].flat(), size: 1, ...more });
      assert.equal(answer.status, 200, answer.text);
      return Object.values(answer.json).flat() as Json[];
    },

    async takeOne(lane: string, more: object = {}): Promise<Json> {
      const [task] = await this.take(lane, { wait: 10, ...more });
      assert.ok(task, `nothing came in ${lane}`);
      return task;
    },

    complete: (id: string, body: unknown = null, more: object = {}) =>
      worker('POST', `/v1/queue/${id}/complete`, { status_code: 200, body, ...more }),

    async emit(taskId: string, eventName: string, eventData: unknown, more: object = {}): Promise<void> {
      const payload = { taskId, eventName, eventData, ...more };
      const answer = await worker('POST', '/v1/queue/events', { name: 'task-progress-event', payload });
      assert.equal(answer.status, 200, answer.text);
    },

    async status(id: string): Promise<string> {
      return (await client('GET', `/v1/queue/${id}`)).json.status;
    },

    /** Puts a streaming task and opens its stream. */
    async stream(queue: string, more: object = {}) {
      const body = taskOf({ queue, response_mode: 'streaming', ...more });
      const stream = await openStream(server, 'POST', '/v1/queue/put', body, { key: keys.client });
      return { stream, id: stream.headers.get('x-task-id') as string };
    },

    /** Reads a task's stream, from the start or after an event. */
    follow: (id: string, after?: string, key = keys.client) =>
      openStream(server, 'GET', `/v1/queue/${id}/events`, undefined, {
        key,
        headers: after === undefined ? {} : { 'Last-Event-ID': after },
      }),
  };
}

/** The error envelope, exactly: no other field, a status that is the response's, a time that is now. */
export function assertRefused(answer: Answer, status: number, message?: RegExp, path?: string): void {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers.get('content-type') ?? '', /^application\/json/);
  const { code, message: told, timestamp, details, ...rest } = answer.json;
  assert.deepEqual(rest, {}, 'fields that the envelope does not have');
  assert.equal(code, status);
  assert.equal(typeof told, 'string');
  assert.ok(Math.abs(timestamp - Date.now()) < 60_000, 'timestamp is in milliseconds');
  assert.doesNotMatch(answer.text, /\bat .*\.ts:\d/, 'a stack trace');
  if (message) assert.match(told, message);
  if (details !== undefined)
    for (const detail of details) {
      assert.deepEqual(Object.keys(detail).sort(), ['message', 'path']);
      assert.equal(typeof detail.path, 'string');
    }
  if (path !== undefined)
    assert.deepEqual((details ?? []).map((detail: Json) => detail.path).includes(path), true, answer.text);
}

/** OpenAI's envelope, exactly, and the headers that go with it. */
export function assertOpenAiError(
  answer: Answer,
  status: number,
  code?: string | null,
  message?: RegExp | string,
): void {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers.get('content-type') ?? '', /^application\/json/);
  assert.match(answer.headers.get('x-request-id') ?? '', /^req_[0-9a-f]{32}$/);
  const { error, ...rest } = answer.json;
  assert.deepEqual(rest, {}, 'fields that the envelope does not have');
  assert.deepEqual(Object.keys(error), ['message', 'type', 'param', 'code']);
  assert.equal(
    error.type,
    status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error',
  );
  assert.doesNotMatch(answer.text, /\bat .*\.ts:\d/, 'a stack trace');
  if (code !== undefined) assert.equal(error.code, code, answer.text);
  if (typeof message === 'string') assert.equal(error.message, message);
  else if (message) assert.match(error.message, message);
}

/** The same, of a refusal of which everything is known. */
export function assertOpenAiRefused(
  answer: Answer,
  status: number,
  message?: RegExp | string,
  param: string | null = null,
  code: string | null = null,
): void {
  assertOpenAiError(answer, status, code, message);
  assert.equal(answer.json.error.param, param, answer.text);
}
