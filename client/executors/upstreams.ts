import type { TaskExecutor, TaskWrapper } from '../worker/executor.ts';
import type { Concurrency } from '../worker/limit.ts';
import type { Log } from '../worker/log.ts';
import type { Dialect } from './dialect.ts';
import { checkSeconds } from './options.ts';
import type { NotAnswered } from './reply.ts';
import { createUpstream, type Upstream, type UpstreamOptions } from './upstream.ts';

/** What the executors that call servers have in common. */
export type UpstreamsOptions = {
  upstreams: readonly UpstreamOptions[];
  /** Of each upstream; `auto` by default. */
  concurrency?: Concurrency | undefined;
  /** Until a call is given up; 600 by default. */
  timeoutSeconds?: number | undefined;
  /** The longest pause before one that failed all its calls is tried again; 10 by default. One that is away is looked at every second. */
  healthSeconds?: number | undefined;
  /** Gets a line when an upstream goes and comes. */
  log?: Log | undefined;
};

export const UPSTREAMS_OPTIONS = ['upstreams', 'concurrency', 'timeoutSeconds', 'healthSeconds', 'log'] as const;

/** When a task comes back for which there is no upstream at all. */
const NOWHERE_SECONDS = 5;
/** How many tasks that failed are remembered, each with where. */
const REMEMBERED = 10_000;

/**
 * Has tasks answered by several servers: each goes to the one with the least load, and to another where that one refuses it. What fails goes back to
 * its queue: an attempt is one call. What a server refused, or what failed as it went away, counts as no attempt.
 */
export function upstreamsExecutor(options: UpstreamsOptions, dialect: Dialect): TaskExecutor {
  const { log = () => undefined, concurrency = 'auto' } = options;
  if (!Array.isArray(options.upstreams) || options.upstreams.length === 0)
    throw new TypeError('upstreams: name at least one, such as { url: "http://127.0.0.1:8000" }');
  const timeoutSeconds = checkSeconds(options.timeoutSeconds ?? 600, 'timeoutSeconds');
  const healthSeconds = checkSeconds(options.healthSeconds ?? 10, 'healthSeconds');
  let tellChange: () => void = () => undefined;
  const onChange = () => tellChange();
  const upstreams = options.upstreams.map((one) =>
    createUpstream(one, { dialect, concurrency, timeoutSeconds, healthSeconds, log, onChange }),
  );
  const failedAt = new Map<string, Upstream>();
  const remember = (taskId: string, upstream: Upstream) => {
    failedAt.delete(taskId);
    failedAt.set(taskId, upstream);
    if (failedAt.size > REMEMBERED) failedAt.delete(failedAt.keys().next().value as string);
  };

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

  const refused = (task: TaskWrapper, error: NotAnswered | undefined, upstream: Upstream | undefined) =>
    task.markRetryLater({
      begun: false,
      // A server that asks for no pause is given one: asked at once again, it would refuse at once again.
      delay_seconds: error?.retryAfter || (upstream?.comeBackSeconds ?? NOWHERE_SECONDS),
      reason: error?.message ?? `no model server is there for ${task.task.queue}`,
      answer: error?.answer,
    });

  const work = async (task: TaskWrapper): Promise<void> => {
    const { task_id: taskId, queue } = task.task;
    const group = serving(queue);
    const before = failedAt.get(taskId);
    const asked = new Set<Upstream>();
    let upstream = leastLoaded(
      group.filter((one) => one.admits),
      before,
    );
    if (upstream === undefined) return refused(task, group[0]?.lastError, group[0]);
    for (;;) {
      asked.add(upstream);
      const last: Upstream = upstream;
      const ended = await last.call(task);
      if (ended === undefined) return;
      if ('answer' in ended) {
        failedAt.delete(taskId);
        return task.markComplete(ended.answer);
      }
      const { error, passedOn, wentAway } = ended;
      // What has been shown can't be taken back.
      if (passedOn) return task.markComplete(error.answer);
      const elsewhere = group.filter((one) => !asked.has(one) && one.room >= 1);
      if (error.outcome === 'failed') {
        remember(taskId, last);
        // What a server dies of must come to an end: it goes free once.
        if (wentAway && before === undefined) return refused(task, error, last);
        // Another one may do better at once.
        const soon = elsewhere.length > 0 && { delay_seconds: 0 };
        return task.markRetryLater({ reason: error.message, answer: error.answer, ...soon });
      }
      upstream = leastLoaded(elsewhere, before);
      if (upstream === undefined) return refused(task, error, last);
    }
  };

  return {
    submit: work,
    remainingCapacity: (queue) => serving(queue).reduce((sum, one) => sum + one.room, 0),
    filled(queue) {
      for (const one of serving(queue)) one.filled();
    },
    onChange(tell) {
      tellChange = tell;
    },
    upstreams: () => upstreams.map((one) => one.report),
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

/** `unwanted` only where there is no other. */
function leastLoaded(among: Upstream[], unwanted?: Upstream): Upstream | undefined {
  return among.reduce<Upstream | undefined>((best, one) => {
    if (best === undefined || best === unwanted) return one;
    return one !== unwanted && one.load < best.load ? one : best;
  }, undefined);
}
