import { appendFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

// A worker to be killed: takes with short leases, heartbeats, reports progress, now and then releases, and writes down what it got and
// what became of its answers.

const [log = '', id = '', ...servers] = process.argv.slice(2);
const key = process.env.WORKER_KEY;

const LANES = [
  { queues: ['plain:0', 'plain:1', 'fragile:0'], strategy: 'active_passive' },
  { queues: ['plain:1', 'narrow:0', 'plain:0'], strategy: 'round_robin' },
  { queues: ['narrow:0', 'fragile:0'], strategy: 'fifo' },
  { queues: ['sequence:0', 'sequence:1'], strategy: 'sequential' },
];
const mine = LANES[Number(id.split('-')[0]) % LANES.length];
type Task = { task_id: string; attempt: number; response_mode: string; data: { marker: string } };

const write = (entry: object) => appendFileSync(log, `${JSON.stringify(entry)}\n`);

async function post(path: string, body: unknown): Promise<Response> {
  const server = servers[Math.floor(Math.random() * servers.length)];
  return fetch(`${server}${path}`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(15_000),
  });
}

/** Again and again until somebody answers: what was worked out is not thrown away. */
async function insist(path: string, body: unknown): Promise<Response> {
  for (;;) {
    const answer = await post(path, body).catch(() => undefined);
    if (answer && answer.status < 500) return answer;
    await sleep(100);
  }
}

async function work({ task_id: taskId, attempt, response_mode: mode, data }: Task): Promise<void> {
  const slow = Math.random() < 0.05;
  for (let beat = 0; beat < (slow ? 4 : 0); beat++) {
    await sleep(400);
    const answer = await insist('/v1/queue/heartbeat', { tasks: [{ task_id: taskId, attempt }] });
    const { extended } = (await answer.json()) as { extended: string[] };
    if (extended.length === 0) return;
  }
  if (mode === 'streaming') {
    const payload = { taskId, attempt, eventName: 'chunk', eventData: data.marker };
    await insist('/v1/queue/events', { name: 'task-progress-event', payload });
  }
  if (attempt === 1 && Math.random() < 0.1) {
    await insist(`/v1/queue/${taskId}/release`, { attempt, delay_seconds: Math.random(), reason: 'not now' });
    return;
  }
  const answer = await insist(`/v1/queue/${taskId}/complete`, {
    status_code: 200,
    body: { echo: data.marker },
    attempt,
  });
  write({ answer: { taskId, attempt, accepted: answer.status === 200 } });
}

for (;;) {
  try {
    const answer = await post('/v1/queue/take', { ...mine, size: 4, wait: 2, lease_seconds: 2, worker: { id } });
    const lanes = (await answer.json()) as Record<string, Task[]>;
    if (answer.status !== 200) throw new Error(`${answer.status}`);
    const tasks = Object.values(lanes).flat();
    for (const { task_id: taskId, attempt } of tasks) write({ take: { taskId, attempt } });
    await Promise.all(tasks.map(work));
  } catch {
    await sleep(100);
  }
}
