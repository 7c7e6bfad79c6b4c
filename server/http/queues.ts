import type { Database } from '../db/open.ts';
import {
  deleteQueue,
  type LaneStats,
  type Queue,
  readLaneStats,
  readQueues,
  registerQueue,
  setQueue,
} from '../db/queues.ts';
import { badRequest, notFound } from '../protocol/errors.ts';
import { laneName } from '../protocol/names.ts';
import { registerBody, settingsBody } from '../protocol/queues.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { type Route, route } from './route.ts';

export function queueRoutes({ db, tasks }: { db: Database; tasks: Tasks }): Route[] {
  const find = async (name: string | undefined) => {
    const [queue] = await readQueues(db, name ?? '');
    if (!queue) throw notFound(`unknown queue ${JSON.stringify(name)}`);
    return queueJson(queue);
  };
  const change = async (name: string | undefined, settings: object) => {
    await setQueue(db, name ?? '', settings);
    tasks.lanes.opened(name ?? '');
    return { json: await find(name) };
  };
  const laneStats = async (lane: string | undefined): Promise<LaneStats> => {
    const { queue, level } = parseLane(lane);
    const lanes = await readLaneStats(db, queue);
    const found = lanes.find((stats) => stats.level === level);
    if (!found) await find(queue);
    return (
      found ?? {
        queue,
        level,
        waiting: 0,
        deferred: 0,
        running: 0,
        oldest_waiting_ms: null,
        total_put_cnt: 0,
        total_completed_cnt: 0,
        rule: null,
        reason: null,
      }
    );
  };

  return [
    route({
      method: 'post',
      path: '/v1/queue/register',
      summary: 'Register a queue for an endpoint',
      roles: ['worker'],
      body: registerBody,
      async handle({ body: { queue, endpoint, ...settings } }) {
        await registerQueue(db, queue, endpoint, settings);
        return { json: queue };
      },
    }),
    route({
      method: 'get',
      path: '/v1/queue/:queue/metadata',
      summary: "A queue's endpoint and settings",
      roles: ['client', 'worker'],
      handle: async ({ params }) => ({ json: await find(params.queue) }),
    }),
    route({
      method: 'get',
      path: '/v1/queues',
      summary: 'All queues, with what waits in each level, and what keeps it from being answered',
      roles: ['client', 'worker'],
      async handle() {
        const lanes = Map.groupBy(await readLaneStats(db), (stats) => stats.queue);
        const data = (await readQueues(db)).map((queue) => ({
          ...queueJson(queue),
          levels: (lanes.get(queue.queue) ?? []).map(({ level, waiting, deferred, running, rule, reason }) => ({
            level,
            waiting,
            deferred,
            running,
            rule,
            reason,
          })),
        }));
        return { json: { data, has_more: false } };
      },
    }),
    route({
      method: 'patch',
      path: '/v1/queue/:queue',
      summary: "Change a queue's settings",
      roles: ['worker'],
      body: settingsBody,
      handle: ({ params, body }) => change(params.queue, body),
    }),
    route({
      method: 'post',
      path: '/v1/queue/:queue/pause',
      summary: 'Hand out nothing of a queue until it is resumed',
      roles: ['worker'],
      handle: ({ params }) => change(params.queue, { paused: true }),
    }),
    route({
      method: 'post',
      path: '/v1/queue/:queue/resume',
      summary: 'Hand out tasks of a paused queue again',
      roles: ['worker'],
      handle: ({ params }) => change(params.queue, { paused: false }),
    }),
    route({
      method: 'delete',
      path: '/v1/queue/:queue',
      summary: 'Unregister a queue in which nothing waits or runs',
      roles: ['worker'],
      async handle({ params }) {
        await deleteQueue(db, params.queue ?? '');
        return { status: 204 };
      },
    }),
    route({
      method: 'get',
      path: '/v1/queue/:lane/stats',
      summary: 'Counts of a lane (queue:level)',
      roles: ['worker'],
      handle: async ({ params }) => ({ json: await laneStats(params.lane) }),
    }),
    route({
      method: 'get',
      path: '/v1/queue/:lane/backlog',
      summary: 'How many tasks wait in a lane (queue:level)',
      roles: ['worker'],
      handle: async ({ params }) => ({ json: (await laneStats(params.lane)).waiting }),
    }),
    route({
      method: 'get',
      path: '/v1/console/queue/stats',
      summary: 'Counts of all lanes',
      roles: ['worker'],
      handle: async () => ({ json: { data: await readLaneStats(db), has_more: false } }),
    }),
    route({
      method: 'post',
      path: '/v1/console/:lane/clear',
      summary: 'Cancel everything that waits in a lane (queue:level)',
      roles: [],
      async handle({ params }) {
        parseLane(params.lane);
        return { json: { cancelled: await tasks.end.clear(params.lane as string) } };
      },
    }),
  ];
}

function parseLane(lane: string | undefined): { queue: string; level: number } {
  const parsed = laneName.safeParse(lane);
  if (!parsed.success)
    throw badRequest(`${JSON.stringify(lane)} is not a lane: write queue:level, with a level from 0 to 99`);
  const colon = parsed.data.lastIndexOf(':');
  return { queue: parsed.data.slice(0, colon), level: Number(parsed.data.slice(colon + 1)) };
}

function queueJson(queue: Queue) {
  const { retry_initial_seconds, retry_factor, retry_max_seconds, retry_jitter, paused, ...rest } = queue;
  return {
    ...rest,
    retry: {
      initial_seconds: retry_initial_seconds,
      factor: retry_factor,
      max_seconds: retry_max_seconds,
      jitter: retry_jitter,
    },
    paused,
  };
}
