import { randomBytes } from 'node:crypto';
import type { Client } from '../../client.ts';
import type { Put, WorkerInfo } from '../../types.ts';
import { span } from '../times.ts';
import { type Check, ok, problem, warning } from './check.ts';

const ENDPOINT = '/v1/chat/completions';
/** What takes longer hangs. */
const LIMIT_MS = 10_000;
const LOST_MS = 45_000;
const OLD_SECONDS = 600;
const SHOWN = 5;

const limit = () => ({ signal: AbortSignal.timeout(LIMIT_MS) });

/** A task's way through a queue of its own, which is removed afterwards. Takes a key of an admin. */
export async function tryTask(client: Client): Promise<Check> {
  const queue = `doctor-${randomBytes(4).toString('hex')}`;
  const began = performance.now();
  try {
    await client.queues.register(queue, ENDPOINT, { max_completed_tasks: 0 }, limit());
    try {
      const put: Put = { queue, endpoint: ENDPOINT, data: {}, timeout: 60 };
      const id = await client.put(put, limit());
      const take = { queues: [`${queue}:0`], size: 1, wait: 5 };
      const taken = await client.request<Record<string, { task_id: string; attempt: number }[]>>(
        'POST',
        '/v1/queue/take',
        { body: take, ...limit() },
      );
      const [task] = Object.values(taken).flat();
      if (task?.task_id !== id) return problem('a task', 'it was put, and a take did not get it', LOG);
      const answer = { status_code: 200, body: {}, attempt: task.attempt };
      await client.request('POST', `/v1/queue/${id}/complete`, { body: answer, ...limit() });
      return ok('a task', `was put, taken and answered in ${Math.ceil(performance.now() - began)} ms`);
    } finally {
      // One that failed is over in a minute, by its deadline.
      await client.queues.remove(queue, limit()).catch(() => undefined);
    }
  } catch (error) {
    return problem('a task', (error as Error).message, LOG);
  }
}
const LOG = "see the other problems, and the server's log";

/** What waits, and for whom; and what was given up. */
export async function lookAtLanes(client: Client): Promise<Check[]> {
  const [lanes, queues, workers, dead] = await Promise.all([
    client.stats(limit()),
    client.queues.list(limit()),
    client.workers.list(limit()),
    client.request<{ data: { queue: string }[]; has_more: boolean }>('GET', '/v1/dead', {
      query: { limit: 100 },
      ...limit(),
    }),
  ]);
  const paused = new Set(queues.filter((queue) => queue.paused).map(({ queue }) => queue));
  const waiting = lanes
    .filter((lane) => lane.waiting > 0)
    .map((lane) => ({ ...lane, name: `${lane.queue}:${lane.level}`, seconds: (lane.oldest_waiting_ms ?? 0) / 1000 }))
    .sort((a, b) => b.seconds - a.seconds);
  const open = waiting.filter(({ queue }) => !paused.has(queue));
  const alone = open.filter((lane) => lane.running === 0 && !workers.some((worker) => serves(worker, lane.name)));
  const old = open.filter((lane) => lane.seconds > OLD_SECONDS && !alone.includes(lane));
  const shut = waiting.filter(({ queue }) => paused.has(queue));
  const told = (some: readonly (typeof waiting)[number][]) =>
    listed(some.map((lane) => `${lane.name} (${lane.waiting}, the oldest for ${span(lane.seconds)})`));
  const queue = dead.data[0]?.queue;
  return [
    alone.length === 0
      ? ok('workers', waiting.length === 0 ? 'nothing waits' : 'every lane in which tasks wait has one')
      : warning(
          'workers',
          `no worker takes from ${told(alone)}`,
          `start one: tasklane worker --queues ${alone[0]?.name} --executor … --upstream …; or look why it stopped: tasklane workers`,
        ),
    old.length === 0
      ? ok('waiting', open.length === 0 ? 'nothing' : `no task for longer than ${span(OLD_SECONDS)}`)
      : warning('waiting', told(old), 'workers are too few, or what they call is slow: tasklane workers; tasklane top'),
    ...(shut.length === 0
      ? []
      : [warning('paused', `tasks wait in ${told(shut)}`, `tasklane queues resume ${shut[0]?.queue}`)]),
    queue === undefined
      ? ok('dead tasks', 'none')
      : warning(
          'dead tasks',
          `${dead.data.length}${dead.has_more ? ' or more' : ''}, the last in ${queue}`,
          `see why: tasklane dead list --queue ${queue}; then try them again: tasklane dead replay --queue ${queue}`,
        ),
  ];
}

const serves = (worker: WorkerInfo, lane: string) =>
  !worker.draining && worker.lanes.includes(lane) && Date.now() - worker.last_seen < LOST_MS;

const listed = (names: readonly string[]) =>
  names.length > SHOWN ? `${names.slice(0, SHOWN).join(', ')} and ${names.length - SHOWN} more` : names.join(', ');
