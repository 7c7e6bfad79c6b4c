import { elementTexts, memberTexts } from '../../server/protocol/json.ts';
import { type Answer, openStream, type Server, startServer } from '../support/server.ts';
import type { Driver, Outcome, Taken } from './driver.ts';

/** Speaks the Task API over HTTP, with a client's key and a worker's. */
export async function httpDriver(): Promise<Driver & { server: Server; workerKey: string }> {
  const server = await startServer();
  const [client, worker] = await Promise.all([server.key('client'), server.key('worker')]);
  const asClient = (method: string, path: string, body?: unknown) =>
    server.request(method, path, body, { key: client });
  const asWorker = (method: string, path: string, body?: unknown) =>
    server.request(method, path, body, { key: worker });
  const outcome = async (answer: Promise<Answer>) => outcomeOf(await answer);

  return {
    server,
    workerKey: worker,

    register: (queue, endpoint) => outcome(asWorker('POST', '/v1/queue/register', { queue, endpoint })),

    async put({ queue, endpoint, level = 0, priority = 5, mode = 'callback', data = '{}' }) {
      const options = JSON.stringify({ queue, endpoint, level, priority, response_mode: mode });
      const body = `${options.slice(0, -1)},"data":${data}}`;
      if (mode === 'callback') {
        const answer = await asClient('POST', '/v1/queue/put', body);
        return answer.status === 200 ? { id: answer.json.data } : refused(answer);
      }
      if (mode === 'streaming') {
        const stream = await openStream(server, 'POST', '/v1/queue/put', body, { key: client });
        // Read on to the end, so that the task keeps its reader.
        void stream.rest().catch(() => undefined);
        return { id: stream.headers.get('x-task-id') as string };
      }
      // A blocking put says nothing before its end: the newest task of the lane is the one, as its client is alone there.
      const hung = new AbortController();
      const waiting = server.request('POST', '/v1/queue/put', body, { key: client, signal: hung.signal });
      waiting.catch(() => undefined);
      for (;;) {
        const { json } = await asClient('GET', `/v1/tasks?queue=${queue}&level=${level}&status=waiting&limit=1`);
        if (json.data.length > 0) return { id: json.data[0].task_id };
      }
    },

    async take(lanes, { size = 1, strategy = 'fifo' } = {}) {
      const answer = await asWorker('POST', '/v1/queue/take', { queues: lanes, size, strategy });
      if (answer.status !== 200) return refused(answer);
      return [...memberTexts(answer.text).values()].flatMap((lane) => elementTexts(lane).map(takenOf));
    },

    complete: (id, { status = 200, body = 'null', attempt }) =>
      outcome(asWorker('POST', `/v1/queue/${id}/complete`, answerText(status, body, attempt))),

    cancel: (id) => outcome(asClient('POST', `/v1/queue/${id}/cancel`)),

    emit: (id, name, data, more) => outcome(asWorker('POST', '/v1/queue/events', progressText(id, name, data, more))),

    async events(id) {
      const stream = await openStream(server, 'GET', `/v1/queue/${id}/events`, undefined, { key: client });
      const events = await stream.rest();
      return events
        .filter((event) => event.name !== 'completion' && event.name !== 'error')
        .map((event) => ({ ...event, id: event.id as string }));
    },

    channel: (endpoint, model, queue) => outcome(asWorker('POST', '/v1/channels', { endpoint, model, queue })),

    pause: (queue, paused) => outcome(asWorker('POST', `/v1/queue/${queue}/${paused ? 'pause' : 'resume'}`)),

    async task(id) {
      const answer = await asClient('GET', `/v1/queue/${id}`);
      if (answer.status === 404) return undefined;
      const members = memberTexts(answer.text);
      return {
        status: answer.json.status,
        attempt: answer.json.attempt,
        data: members.get('data') as string,
        result: members.get('result'),
      };
    },

    async stats(lane) {
      const { json } = await asWorker('GET', `/v1/queue/${lane}/stats`);
      return {
        waiting: json.waiting,
        running: json.running,
        put: json.total_put_cnt,
        ended: json.total_completed_cnt,
      };
    },

    async close() {
      await server.stop();
    },
  };
}

export function answerText(status: number, body: string, attempt: number | undefined): string {
  return `{"status_code":${status},"body":${body}${attempt === undefined ? '' : `,"attempt":${attempt}`}}`;
}

export function progressText(
  taskId: string,
  eventName: string,
  data: string,
  more: { eventId?: string; attempt?: number } = {},
): string {
  const payload = JSON.stringify({ taskId, eventName, ...more });
  return `{"name":"task-progress-event","from":"","payload":${payload.slice(0, -1)},"eventData":${data}},"context":""}`;
}

function takenOf(text: string): Taken {
  const task = JSON.parse(text);
  return {
    id: task.task_id,
    attempt: task.attempt,
    queue: task.queue,
    level: task.level,
    mode: task.response_mode,
    data: memberTexts(text).get('data') as string,
  };
}

const OUTCOMES: Record<number, Outcome> = {
  200: 'ok',
  202: 'ok',
  400: 'invalid',
  404: 'unknown',
  409: 'conflict',
};

function outcomeOf(answer: Answer): Outcome {
  const outcome = OUTCOMES[answer.status];
  if (outcome === undefined) throw new Error(`${answer.status} ${answer.text}`);
  return outcome;
}

function refused(answer: Answer): Exclude<Outcome, 'ok'> {
  const outcome = outcomeOf(answer);
  if (outcome === 'ok') throw new Error(`not refused: ${answer.text}`);
  return outcome;
}
