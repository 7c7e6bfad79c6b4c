/**
 * The quickstart's demo worker: a process that knows a server's URL and a worker key, and speaks HTTP only.
 *
 *     WORKER_KEY=sk-… node scripts/quickstart/worker.ts http://127.0.0.1:8080
 *
 * With OPENAI_BASE_URL set it asks that model server (OPENAI_API_KEY, OPENAI_MODEL); without it, it reads the request and answers itself.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { ChatRequest } from './chat.ts';
import { TAKINGS, type Taking } from './lanes.ts';
import { demoModel, openAiModel } from './model.ts';
import { connect } from './tasklane.ts';

type Task = { task_id: string; attempt: number; response_mode: string; data: ChatRequest };

const { WORKER_KEY = '', OPENAI_BASE_URL, OPENAI_API_KEY = 'none', OPENAI_MODEL = 'default' } = process.env;
const tasklane = connect(process.argv[2] ?? 'http://127.0.0.1:8080', WORKER_KEY);
const model = OPENAI_BASE_URL ? openAiModel(OPENAI_MODEL, OPENAI_API_KEY) : demoModel;

const stopping = new AbortController();
process.on('SIGTERM', () => stopping.abort());
process.on('SIGINT', () => stopping.abort());
// The quickstart holds the other end: when it is gone, however it went, so is this.
process.stdin.on('end', () => stopping.abort()).resume();

let begun = 0;

async function takeAndAnswer({ lanes, strategy, size }: Taking): Promise<void> {
  while (!stopping.signal.aborted) {
    try {
      const taken = await tasklane.call<Record<string, Task[]>>(
        'POST',
        '/v1/queue/take',
        { queues: lanes, strategy, size, wait: 30, worker: { id: `demo-${process.pid}` } },
        stopping.signal,
      );
      // In the order of the lanes, so that the numbers that answers carry tell in which order the tasks were begun.
      const tasks = lanes.flatMap((lane) => taken[lane] ?? []);
      const results = await Promise.all(tasks.map((task) => answer(task, ++begun)));
      if (results.length > 0) await tasklane.call('POST', '/v1/queue/complete', { results });
      // Nothing in half a minute; or it was told to drain, and every take is answered so at once.
      else await pause(200, undefined, { signal: stopping.signal });
    } catch (error) {
      if (stopping.signal.aborted) return;
      console.error(new Date().toISOString(), (error as Error).message);
      await pause(500, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  }
}

async function answer({ task_id, attempt, response_mode, data }: Task, number: number) {
  const request_id = `demo-${number}`;
  const report = async (eventData: unknown) => {
    const payload = { taskId: task_id, eventName: 'chunk', eventData, attempt };
    await tasklane.call('POST', '/v1/queue/events', { name: 'task-progress-event', payload });
  };
  try {
    const body = await model(data, response_mode === 'streaming' ? report : undefined);
    return { task_id, attempt, request_id, status_code: 200, body };
  } catch (error) {
    const { status, message } = error as { status?: unknown; message: string };
    const status_code = typeof status === 'number' && status >= 400 && status <= 599 ? status : 502;
    return { task_id, attempt, request_id, status_code, body: { error: { message } } };
  }
}

await Promise.all(TAKINGS.flatMap((taking) => Array.from({ length: taking.takers }, () => takeAndAnswer(taking))));
process.exit(0);
