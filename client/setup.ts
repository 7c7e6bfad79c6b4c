import type { CallOptions, Http } from './http.ts';
import { type Page, pages } from './page.ts';
import type {
  Channel,
  Key,
  LaneStats,
  LevelCounts,
  Put,
  Queue,
  QueueSettings,
  Role,
  Schedule,
  ScheduleInput,
  WorkerInfo,
} from './types.ts';

type List<Item> = { data: Item[]; has_more: boolean };
type Options = CallOptions;

const name = encodeURIComponent;

/** What a server is set up with: queues, channels, schedules, workers, keys. */
export function setupOf(http: Http) {
  const all = async <Item>(path: string, options: Options): Promise<Item[]> =>
    (await http.json<List<Item>>('GET', path, options)).data;
  /** Doing it twice is doing it once. */
  const again = { repeatable: true };
  const post = <Reply>(path: string, body: unknown, options: Options): Promise<Reply> =>
    http.json('POST', path, { ...options, ...again, body });

  return {
    /** Counts of all lanes. For workers and admins. */
    stats: (options: Options = {}): Promise<LaneStats[]> => all('/v1/console/queue/stats', options),

    queues: {
      /** All queues, with what is in each level. */
      list: (options: Options = {}): Promise<(Queue & { levels: LevelCounts[] })[]> => all('/v1/queues', options),
      /** Throws NotFoundError. */
      get: (queue: string, options: Options = {}): Promise<Queue> =>
        http.json('GET', `/v1/queue/${name(queue)}/metadata`, options),
      /** Throws ConflictError for a queue that is registered for another endpoint. */
      async register(
        queue: string,
        endpoint: string,
        settings: QueueSettings = {},
        options: Options = {},
      ): Promise<void> {
        await post('/v1/queue/register', { queue, endpoint, ...settings }, options);
      },
      update: (queue: string, settings: QueueSettings, options: Options = {}): Promise<Queue> =>
        http.json('PATCH', `/v1/queue/${name(queue)}`, { ...options, body: settings }),
      /** It accepts tasks, and hands out none until it is resumed. */
      pause: (queue: string, options: Options = {}): Promise<Queue> =>
        post(`/v1/queue/${name(queue)}/pause`, undefined, options),
      resume: (queue: string, options: Options = {}): Promise<Queue> =>
        post(`/v1/queue/${name(queue)}/resume`, undefined, options),
      /** Throws ConflictError while anything waits or runs in it. */
      async remove(queue: string, options: Options = {}): Promise<void> {
        await http.json('DELETE', `/v1/queue/${name(queue)}`, options);
      },
      /** Counts of a lane, `queue:level`. */
      stats: (lane: string, options: Options = {}): Promise<LaneStats> =>
        http.json('GET', `/v1/queue/${name(lane)}/stats`, options),
      /** How many tasks wait in a lane. */
      backlog: (lane: string, options: Options = {}): Promise<number> =>
        http.json('GET', `/v1/queue/${name(lane)}/backlog`, options),
      /** Cancels everything that waits in a lane, and says how many. For admins. */
      async clear(lane: string, options: Options = {}): Promise<number> {
        return (await post<{ cancelled: number }>(`/v1/console/${name(lane)}/clear`, undefined, options)).cancelled;
      },
    },

    channels: {
      list: (options: Options = {}): Promise<Channel[]> => all('/v1/channels', options),
      /** Routes (endpoint, model) to a queue, in place of the route there was. */
      create: (channel: Omit<Channel, 'id'>, options: Options = {}): Promise<Channel> =>
        post('/v1/channels', channel, options),
      async remove(id: number, options: Options = {}): Promise<void> {
        await http.json('DELETE', `/v1/channels/${id}`, options);
      },
    },

    schedules: {
      list(query: { limit?: number } = {}, options: Options = {}): Page<Schedule> {
        return pages(
          (after) => http.json('GET', '/v1/schedules', { ...options, query: { ...query, after } }),
          (schedule) => schedule.id,
        );
      },
      /** Throws BadRequestError for an expression that is none, or never due. */
      create: (schedule: ScheduleInput, options: Options = {}): Promise<Schedule> =>
        http.json('POST', '/v1/schedules', { ...options, body: schedule }),
      get: (id: string, options: Options = {}): Promise<Schedule> =>
        http.json('GET', `/v1/schedules/${name(id)}`, options),
      update: (
        id: string,
        changes: Partial<ScheduleInput> & { task?: Put },
        options: Options = {},
      ): Promise<Schedule> => http.json('PATCH', `/v1/schedules/${name(id)}`, { ...options, body: changes }),
      async remove(id: string, options: Options = {}): Promise<void> {
        await http.json('DELETE', `/v1/schedules/${name(id)}`, options);
      },
      enable: (id: string, options: Options = {}): Promise<Schedule> =>
        post(`/v1/schedules/${name(id)}/enable`, undefined, options),
      disable: (id: string, options: Options = {}): Promise<Schedule> =>
        post(`/v1/schedules/${name(id)}/disable`, undefined, options),
      /** When an expression is due next, in epoch milliseconds; 5 times by default. */
      async preview(
        query: { cron: string; timezone?: string; count?: number },
        options: Options = {},
      ): Promise<number[]> {
        return (await http.json<{ data: number[] }>('GET', '/v1/schedules/preview', { ...options, query })).data;
      },
    },

    /** For workers and admins; drain and resume for admins. */
    workers: {
      list: (options: Options = {}): Promise<WorkerInfo[]> => all('/v1/workers', options),
      /** Its takes give nothing from now on. A name, where no worker has it as its id, is of all that bear it and live. */
      async drain(id: string, options: Options = {}): Promise<void> {
        await post(`/v1/workers/${name(id)}/drain`, undefined, options);
      },
      async resume(id: string, options: Options = {}): Promise<void> {
        await post(`/v1/workers/${name(id)}/resume`, undefined, options);
      },
    },

    /** For admins. */
    keys: {
      list: (options: Options = {}): Promise<Key[]> => all('/v1/keys', options),
      /** `key` is the secret: this is the only time that it is shown. */
      create: (
        key: { role: Role; tenant?: string; name?: string },
        options: Options = {},
      ): Promise<Key & { key: string }> => http.json('POST', '/v1/keys', { ...options, body: key }),
      async revoke(id: string, options: Options = {}): Promise<void> {
        await http.json('DELETE', `/v1/keys/${name(id)}`, options);
      },
    },
  };
}
