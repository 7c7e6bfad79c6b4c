import { once } from 'node:events';
import WebSocket from 'ws';
import type { Driver, Outcome } from './driver.ts';
import { httpDriver, progressText } from './http-driver.ts';

/** As over HTTP, but a worker's events and answers go over the event bus. */
export async function webSocketDriver(): Promise<Driver> {
  const http = await httpDriver();
  const socket = new WebSocket(`${http.server.url.replace('http', 'ws')}/v1/queue/eventbus`, {
    headers: { Authorization: `Bearer ${http.workerKey}` },
  });
  await once(socket, 'open');

  const send = async (frame: string, taskId: string): Promise<Outcome> => {
    socket.send(frame);
    const [answer] = await once(socket, 'message');
    const verdict = JSON.parse(String(answer));
    if (verdict.taskId !== taskId) throw new Error(`a verdict on another task: ${answer}`);
    if (verdict.ok) return 'ok';
    if (/^unknown task/.test(verdict.message)) return 'unknown';
    return /^the task is /.test(verdict.message) ? 'conflict' : 'invalid';
  };

  return {
    ...http,
    complete(id, { status = 200, body = 'null', attempt }) {
      const payload = JSON.stringify({ taskId: id, attempt });
      const result = `{"status_code":${status},"body":${body}}`;
      return send(
        `{"name":"task-completion-event","payload":${payload.slice(0, -1)},"result":${result}},"context":""}`,
        id,
      );
    },
    emit: (id, name, data, more) => send(progressText(id, name, data, more), id),
    async close() {
      socket.terminate();
      await http.close();
    },
  };
}
