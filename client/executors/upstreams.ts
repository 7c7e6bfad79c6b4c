import { backoff } from '../http.ts';
import type { TaskExecutor, TaskWrapper } from '../worker/executor.ts';
import type { Concurrency } from '../worker/limit.ts';
import type { Log } from '../worker/log.ts';
import type { Dialect } from './dialect.ts';
import { checkSeconds } from './options.ts';
import { type NotAnswered, upstreamError } from './reply.ts';
import { createUpstream, type Upstream, type UpstreamOptions } from './upstream.ts';

/** What the executors that call servers have in common. */
export type UpstreamsOptions = {
  upstreams: readonly UpstreamOptions[];
  /** Of each upstream; `auto` by default. */
  concurrency?: Concurrency | undefined;
  /** Until a call is given up; 600 by default. */
  timeoutSeconds?: number | undefined;
  /** The longest time between looks at an upstream that is away; 10 by default. */
  healthSeconds?: number | undefined;
  /** How often a call that failed is tried again before the attempt is given up; 2 by default. */
  retries?: number | undefined;
  /** Gets a line when an upstream goes and comes. */
  log?: Log | undefined;
};

export const UPSTREAMS_OPTIONS = [
  'upstreams',
  'concurrency',
  'timeoutSeconds',
  'healthSeconds',
  'retries',
  'log',
] as const;

/**
 * Has tasks answered by several servers: each goes to the one with the least load, to another where that one refuses or fails it, and back to its queue
 * where none is left. What a server refused, or what failed as it went away, counts as no attempt.
 */
export function upstreamsExecutor(options: UpstreamsOptions, dialect: Dialect): TaskExecutor {
  const { retries = 2, log = () => undefined, concurrency = 'auto' } = options;
  if (!Array.isArray(options.upstreams) || options.upstreams.length === 0)
    throw new TypeError('upstreams: name at least one, such as { url: "http://127.0.0.1:8000" }');
  if (!Number.isInteger(retries) || retries < 0)
    throw new RangeError(`retries: ${retries} is not an integer from 0 on`);
  const timeoutSeconds = checkSeconds(options.timeoutSeconds ?? 600, 'timeoutSeconds');
  const healthSeconds = checkSeconds(options.healthSeconds ?? 10, 'healthSeconds');
  const upstreams = options.upstreams.map((one) =>
    createUpstream(one, { dialect, concurrency, timeoutSeconds, healthSeconds, log }),
  );

  const groups = new Map<string, Upstream[]>();
  const serving = (queue: string): Upstream[] => {
    let group = groups.get(queue);
    if (group === undefined) {
      group = upstreams.filter((one) => one.serves(queue));
      groups.set(queue, group);
      if (group.length === 0) log(`no upstream serves the queue ${queue}: its tasks wait`);
    }
    return group;
  };

  const work = async (task: TaskWrapper): Promise<void> => {
    const group = serving(task.task.queue);
    const refusing = new Set<Upstream>();
    /** Those that failed, each with whether the task itself may be to blame. */
    const failing = new Map<Upstream, { toCount: boolean }>();
    const giveBack = (how: NotAnswered | undefined, upstream: Upstream | undefined) => {
      // A server that goes away takes all tasks with it that it has. But what fails alone, as the one that is to show whether it works again, may be what
      // it dies of, and must come to an end.
      const begun = [...failing].some(([one, { toCount }]) => toCount || !one.isOpen);
      const reason = how?.message ?? `no model server is there for ${task.task.queue}`;
      if (begun) return task.markRetryLater({ reason });
      const delay_seconds = how?.retryAfter ?? (upstream ?? group[0])?.comeBackSeconds ?? 5;
      task.markRetryLater({ begun: false, delay_seconds, reason });
    };

    let upstream = leastLoaded(group.filter((one) => one.admits));
    if (upstream === undefined) return giveBack(undefined, undefined);
    for (let failed = 0; ; ) {
      const ended = await upstream.call(task);
      if (ended === undefined) return;
      if ('answer' in ended) return task.markComplete(ended.answer);
      const { error, passedOn, isProbe } = ended;
      if (passedOn)
        return task.markComplete({
          status_code: 502,
          body: upstreamError(`the model server broke off: ${error.message}`),
        });
      if (error.outcome === 'refused') refusing.add(upstream);
      else {
        failing.set(upstream, { toCount: isProbe || failing.get(upstream)?.toCount === true });
        if (++failed > retries) return giveBack(error, upstream);
      }
      const last: Upstream = upstream;
      upstream = leastLoaded(group.filter((one) => one !== last && !refusing.has(one) && one.room >= 1));
      if (upstream !== undefined) continue;
      if (error.outcome === 'refused') return giveBack(error, last);
      await last.pause(backoff(failed - 1), task.signal).catch(() => undefined);
      if (task.signal.aborted) return;
      upstream = leastLoaded(group.filter((one) => !refusing.has(one) && one.admits));
      if (upstream === undefined) return giveBack(error, last);
    }
  };

  return {
    submit: work,
    remainingCapacity: (queue) => serving(queue).reduce((sum, one) => sum + one.room, 0),
    filled(queue) {
      for (const one of serving(queue)) one.filled();
    },
    groupOf: (queue) =>
      serving(queue)
        .map((one) => upstreams.indexOf(one))
        .join(),
    async check() {
      await Promise.all(upstreams.map((one) => one.check()));
    },
    close() {
      for (const one of upstreams) one.stop();
      dialect.close?.();
    },
  };
}

function leastLoaded(among: Upstream[]): Upstream | undefined {
  return among.reduce<Upstream | undefined>(
    (best, one) => (best === undefined || one.load < best.load ? one : best),
    undefined,
  );
}
