import { setTimeout as pause } from 'node:timers/promises';
import { WebSocket } from 'ws';
import type { Answer, Json, RequestOptions, Server } from '../support/server.ts';

const PATIENCE_MS = 30_000;
export const ENDPOINT = '/v1/chat/completions';

/** What a client, a worker or a test asks of a server, over HTTP. Throws unless the answer is a 200. */
export function talk(server: Pick<Server, 'request'>) {
  const ok = async (method: string, path: string, body?: unknown, options?: RequestOptions): Promise<Json> => {
    const answer = await server.request(method, path, body, options);
    if (answer.status !== 200) throw new Error(`${method} ${path} answered ${answer.status}: ${answer.text}`);
    return answer.json;
  };
  return {
    register: (queue: string, settings: object = {}) =>
      ok('POST', '/v1/queue/register', { queue, endpoint: ENDPOINT, ...settings }),
    /** The id of a callback task, once it is committed. */
    put: async (queue: string, more: object = {}): Promise<string> =>
      (await ok('POST', '/v1/queue/put', { queue, endpoint: ENDPOINT, data: {}, ...more })).data,
    puts: async (queue: string, count: number, more: object = {}): Promise<string[]> => {
      const tasks = Array.from({ length: count }, (_, n) => ({ queue, endpoint: ENDPOINT, data: { n }, ...more }));
      return (await ok('POST', '/v1/queue/puts', { tasks })).data;
    },
    /** A blocking put: resolves with its answer, whatever that is. */
    ask: (queue: string, more: object = {}, options: RequestOptions = {}): Promise<Answer> =>
      server.request(
        'POST',
        '/v1/queue/put',
        { queue, endpoint: ENDPOINT, data: {}, response_mode: 'blocking', ...more },
        options,
      ),
    take: async (queue: string, more: object = {}): Promise<Json[]> =>
      (await ok('POST', '/v1/queue/take', { queues: [`${queue}:0`], size: 1, ...more }))[`${queue}:0`] ?? [],
    /** The lane's next task, waiting for it. */
    takeOne: async (queue: string, more: object = {}): Promise<Json> => {
      const answer = await ok('POST', '/v1/queue/take', { queues: [`${queue}:0`], size: 1, wait: 30, ...more });
      const [task] = answer[`${queue}:0`] ?? [];
      if (!task) throw new Error(`nothing came to ${queue}`);
      return task;
    },
    complete: (taskId: string, body: unknown = { ok: true }, statusCode = 200) =>
      ok('POST', `/v1/queue/${taskId}/complete`, { status_code: statusCode, body }),
    emit: async (events: object[]): Promise<Json[]> => (await ok('POST', '/v1/queue/events', events)).data,
    task: (taskId: string): Promise<Json> => ok('GET', `/v1/queue/${taskId}`),
  };
}

export const progress = (taskId: string, eventData: unknown, eventId?: string) => ({
  name: 'task-progress-event',
  from: '',
  payload: { taskId, eventName: 'chunk', eventData, ...(eventId === undefined ? {} : { eventId }) },
  context: '',
});

/** Asks again and again until `ask` gives something other than undefined or false; `what` names it when it never does. */
export async function until<Value>(
  what: string,
  ask: () => Promise<Value | undefined | false>,
  patienceMs = PATIENCE_MS,
): Promise<Value> {
  for (const end = Date.now() + patienceMs; Date.now() < end; await pause(10)) {
    const found = await ask();
    if (found !== undefined && found !== false) return found;
  }
  throw new Error(`waited in vain until ${what}`);
}

type SseEvent = { id: string | undefined; event: string; data: Json };

export type Stream = {
  taskId: string;
  /** All that has come so far. */
  events: SseEvent[];
  /** Resolves when as many events are there. */
  atLeast(count: number): Promise<void>;
  /** Resolves when the server, or the connection, has ended the stream. */
  ended: Promise<void>;
  hangUp(): void;
};

/** Opens an event stream: with `body` by a put, otherwise by a GET. */
async function openStream(
  server: Server,
  path: string,
  options: { body?: unknown; lastEventId?: string | undefined; key?: string } = {},
): Promise<Stream> {
  const controller = new AbortController();
  const response = await fetch(server.url + path, {
    method: options.body === undefined ? 'GET' : 'POST',
    headers: {
      Authorization: `Bearer ${options.key ?? server.adminKey}`,
      ...(options.body === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...(options.lastEventId === undefined ? {} : { 'Last-Event-ID': options.lastEventId }),
    },
    ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
    signal: controller.signal,
  });
  if (response.status !== 200 || !response.body)
    throw new Error(`no stream: ${response.status} ${await response.text()}`);

  const events: SseEvent[] = [];
  let rouse = Promise.withResolvers<void>();
  let over = false;
  const pump = async (body: ReadableStream<Uint8Array>) => {
    let text = '';
    try {
      for await (const chunk of body.pipeThrough(
        new TextDecoderStream() as never,
      ) as unknown as AsyncIterable<string>) {
        const blocks = (text + chunk).split('\n\n');
        text = blocks.pop() as string;
        for (const block of blocks) {
          const event = parseEvent(block);
          if (event) events.push(event);
        }
        rouse.resolve();
        rouse = Promise.withResolvers();
      }
    } catch {
      // The server died, or this reader hung up.
    } finally {
      over = true;
      rouse.resolve();
    }
  };
  const ended = pump(response.body as ReadableStream<Uint8Array>);
  return {
    taskId: response.headers.get('x-task-id') as string,
    events,
    async atLeast(count) {
      while (events.length < count) {
        if (over) throw new Error(`the stream ended after ${events.length} of ${count} events`);
        await rouse.promise;
      }
    },
    ended,
    hangUp: () => controller.abort(),
  };
}

/** Puts a streaming task and reads its stream. */
export const askStream = (server: Server, queue: string, more: object = {}): Promise<Stream> =>
  openStream(server, '/v1/queue/put', {
    body: { queue, endpoint: ENDPOINT, data: {}, response_mode: 'streaming', ...more },
  });

export const readStream = (server: Server, taskId: string, lastEventId?: string): Promise<Stream> =>
  openStream(server, `/v1/queue/${taskId}/events`, { lastEventId });

/** Follows what happens to tasks. */
export const followEvents = (server: Server, query: string, lastEventId?: string): Promise<Stream> =>
  openStream(server, `/v1/events?${query}`, { lastEventId });

function parseEvent(block: string): SseEvent | undefined {
  const fields = new Map<string, string>();
  for (const line of block.split('\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  const data = fields.get('data');
  if (data === undefined) return undefined;
  return { id: fields.get('id'), event: fields.get('event') ?? 'message', data: JSON.parse(data) };
}

/** The event bus of a server, for a worker: `send` resolves with the server's verdict on the frame. */
export async function openEventBus(server: Server) {
  const socket = new WebSocket(`${server.url.replace('http', 'ws')}/v1/queue/eventbus`, {
    headers: { Authorization: `Bearer ${server.adminKey}` },
  });
  const verdicts: ((verdict: Json) => void)[] = [];
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  // Frames are answered in their order.
  socket.on('message', (frame) => verdicts.shift()?.(JSON.parse(frame.toString())));
  return {
    send: (event: object): Promise<Json> =>
      new Promise((resolve) => {
        verdicts.push(resolve);
        socket.send(JSON.stringify(event));
      }),
    close: () => socket.terminate(),
  };
}
