import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { ServerOptions } from './environment.ts';
import { isFinal, NotFoundError } from './errors.ts';
import { backoff, createHttp, type Http, sleep } from './http.ts';
import type { Queue, Strategy, Task } from './types.ts';
import { createAnswers } from './worker/answers.ts';
import { createChanges } from './worker/changes.ts';
import type { TaskExecutor } from './worker/executor.ts';
import { type Hand, takeInHand } from './worker/hand.ts';
import { type Handlers, handlersExecutor } from './worker/handlers.ts';
import { createLeases } from './worker/leases.ts';
import type { Concurrency } from './worker/limit.ts';
import type { Log } from './worker/log.ts';
import { createProgress, type Transport } from './worker/progress.ts';
import { createReport } from './worker/report.ts';
import { createRoom, queueOf, type Room } from './worker/room.ts';
import { takeFrom } from './worker/takes.ts';

export * from './errors.ts';
export { createExecutor, type ExecutorOptions, executorNames, registerExecutor } from './executors/registry.ts';
export type * from './types.ts';
export * from './worker/executor.ts';
export type { Handler, HandlerContext, Handlers } from './worker/handlers.ts';
export { type Concurrency, createLimit, type Limit, type Outcome } from './worker/limit.ts';

export type WorkerOptions = ServerOptions & {
  /** Lanes, `queue:level`. Those of level 0 are live, and always go before the others. */
  queues: readonly string[];
  /** A handler an endpoint; or `executor`. */
  handlers?: Handlers;
  executor?: TaskExecutor;
  /** How many handlers run at once; 1 by default. An executor knows its own. */
  concurrency?: Concurrency;
  /** How much room tasks of levels from 1 on leave free for live ones: a tenth, and 1 at least, by default. */
  reserve?: number;
  /** How many tasks of levels from 1 on to have at hand before there is room for them; 0 by default. */
  prefetch?: number;
  /** In which order tasks come from the live lanes, and from the others; `fifo` by default. */
  strategy?: Strategy;
  /** After a worker that died its tasks go back in this time: 30, or its queues' where that is less, by default. As long as it lives, it extends them. */
  leaseSeconds?: number;
  /** Passes over queues of other endpoints; and queues that are not registered yet are, for this one. */
  endpoint?: string;
  /** Shown beside its tasks; the host's name and a random part by default. */
  id?: string;
  name?: string;
  /** How long `stop` takes at most: it waits for what has begun, and in the last fifth, 2 to 5 seconds, gives that back too; 30 by default. */
  drainSeconds?: number;
  transport?: Transport;
  /** Whether SIGTERM and SIGINT stop it; true by default. */
  handleSignals?: boolean;
  /** Gets what it has to say, a line at a time; stderr by default. */
  log?: Log;
};

export type Worker = ReturnType<typeof createWorker>;

/** It is extended every five seconds, and outlasts a database that is away for twenty. */
const LEASE_SECONDS = 30;
/** What `stop` gives a take to come back by itself. */
const HANG_UP_MS = 300;
/** The end of `drainSeconds`, in which the server takes the last answers and what is given back: a fifth, within these bounds. */
const LEAST_LAST_MS = 2000;
const MOST_LAST_MS = 5000;
/** What `stop` gives an executor to close. */
const CLOSE_MS = 10_000;
const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/**
 * A worker: takes tasks as there is room for them, has them worked on, and sees to it that the server gets the answers, across restarts of the server.
 * Live lanes go before the others, which leave room for them. Throws TypeError or RangeError for options that can't be.
 */
export function createWorker(options: WorkerOptions) {
  const {
    reserve,
    prefetch = 0,
    strategy = 'fifo',
    drainSeconds = 30,
    log = (line) => void process.stderr.write(`${line}\n`),
  } = options;
  if (options.queues.length === 0) throw new TypeError('queues: name at least one lane, such as "llama3:0"');
  for (const lane of options.queues) {
    if (!/^[A-Za-z0-9_-]{1,64}:\d{1,2}$/.test(lane))
      throw new TypeError(`queues: ${JSON.stringify(lane)} is not a lane: write queue:level`);
  }
  if ((options.handlers === undefined) === (options.executor === undefined))
    throw new TypeError('give handlers or an executor');
  const executor = options.executor ?? handlersExecutor(options.handlers as Handlers, options.concurrency ?? 1);
  const id = options.id ?? `${hostname()}-${randomBytes(3).toString('hex')}`;

  // Each part repeats what fails in its own way.
  const http = createHttp({ ...options, maxRetries: 0 });
  const answers = createAnswers(http, log);
  const progress = createProgress(http, options.transport ?? 'auto', log);
  let leaseSeconds = options.leaseSeconds ?? LEASE_SECONDS;
  const leases = createLeases(http, id, () => leaseSeconds, log);
  const changes = createChanges();
  const stopping = new AbortController();
  const hangUp = new AbortController();
  const givenUp = new AbortController();
  const desk = { http, answers, progress, leases, log, givenUp: givenUp.signal };

  const hands = new Set<Hand>();
  const groups = new Map<string, string[]>();
  for (const lane of options.queues) {
    const group = executor.groupOf?.(queueOf(lane)) ?? '';
    groups.set(group, [...(groups.get(group) ?? []), lane]);
  }
  const rooms = [...groups.values()].map((lanes) =>
    createRoom({ executor, lanes, reserve, prefetch, onChange: changes.happened }),
  );

  const takeInto = (room: Room) => (tasks: Task[], ahead: number) => {
    for (const task of tasks) {
      const hand = takeInHand(task, desk, ahead);
      hands.add(hand);
      void hand.over.then(() => hands.delete(hand));
      room.add(hand, `${task.queue}:${task.level}`);
    }
    if (stopping.signal.aborted) room.close();
    else room.look();
  };

  const who = { id, ...(options.name !== undefined && { name: options.name }) };
  const look = () => {
    const upstreams = executor.upstreams?.();
    return {
      capacities: Object.fromEntries(rooms.flatMap((room) => room.capacities())),
      ...(upstreams && { upstreams }),
    };
  };
  const report = createReport(http, who, look, log);
  executor.onChange?.(() => {
    for (const room of rooms) room.look();
    report.changed();
  });

  let loops: Promise<void>[] = [];
  const run = () => {
    const what = { leaseSeconds, endpoint: options.endpoint, worker: report.now };
    report.start();
    loops = rooms.flatMap((room) => {
      const on = { changes, take: takeInto(room), log, signal: stopping.signal, hangUp: hangUp.signal };
      return room
        .takes(strategy)
        .map(({ room: places, ...take }) => takeFrom(http, { ...what, ...take }, { ...on, room: places }));
    });
  };

  const stop = async (): Promise<void> => {
    stopping.abort();
    for (const room of rooms) room.close();
    // A reply that is on its way brings tasks, which go back one by one; a take that waits ends with its connection.
    const late = setTimeout(() => hangUp.abort(), HANG_UP_MS);
    await Promise.all(loops);
    clearTimeout(late);
    const over = Promise.all([...hands].map((hand) => hand.over));
    const lastMs = Math.min(Math.max(drainSeconds * 200, LEAST_LAST_MS), MOST_LAST_MS);
    await within(Math.max(drainSeconds * 1000 - lastMs, 0), over);
    // Nothing is wrong with a task whose worker is told to stop, so its attempt does not count.
    for (const hand of hands) {
      hand.abort('stopping');
      hand.giveBack();
    }
    await within(lastMs, over);
    givenUp.abort();
    answers.stop();
    progress.stop();
    leases.stop();
    await report.stop();
    await within(CLOSE_MS, Promise.resolve(executor.close?.()));
    removeSignalHandlers();
  };
  let stopped: Promise<void> | undefined;

  const onSignal = (signal: NodeJS.Signals) => {
    const again = stopped !== undefined;
    if (!again) log(`${signal}: gives back what has not begun, and ends what has`);
    stopped ??= stop();
    const leave = () => {
      removeSignalHandlers();
      process.kill(process.pid, signal);
    };
    if (again) leave();
    else void stopped.finally(leave);
  };
  const removeSignalHandlers = () => {
    for (const signal of SIGNALS) process.off(signal, onSignal);
  };

  return {
    id,
    /**
     * Resolves when it takes, or was stopped meanwhile. A server that can't be reached yet is waited for. Throws NotFoundError for a queue that is not registered, AuthenticationError
     * or PermissionDeniedError for a key that won't do.
     */
    async start(): Promise<void> {
      if (options.handleSignals !== false) for (const signal of SIGNALS) process.on(signal, onSignal);
      try {
        const queues = [...new Set(options.queues.map(queueOf))];
        const found = await Promise.all(
          queues.map((queue) => find(http, queue, options.endpoint, log, stopping.signal)),
        );
        if (options.handlers) checkHandlers(options.handlers, found);
        if (options.leaseSeconds === undefined)
          leaseSeconds = Math.min(LEASE_SECONDS, ...found.map(({ lease_seconds }) => lease_seconds));
        await executor.check?.();
        await outlast(() => report.hello(), log, stopping.signal);
      } catch (error) {
        removeSignalHandlers();
        if (!stopping.signal.aborted) throw error;
      }
      if (!stopping.signal.aborted) run();
    },
    /** How many tasks it works on. */
    get running(): number {
      return [...hands].filter((hand) => hand.begun).length;
    },
    /**
     * Takes nothing more, gives back what has not begun, waits for what has, and sees to it that the server gets the answers. What is not done in time is
     * given back, and no attempt counts.
     */
    stop(): Promise<void> {
      stopped ??= stop();
      return stopped;
    },
  };
}

/** A queue; registered for the endpoint where it is not yet, and one is given. Waits for a server that is away. */
async function find(
  http: Http,
  name: string,
  endpoint: string | undefined,
  log: Log,
  signal: AbortSignal,
): Promise<Queue> {
  const read = () => http.json<Queue>('GET', `/v1/queue/${name}/metadata`, { signal });
  try {
    return await outlast(read, log, signal);
  } catch (error) {
    if (!(error instanceof NotFoundError) || endpoint === undefined) throw error;
    const body = { queue: name, endpoint };
    await outlast(() => http.json('POST', '/v1/queue/register', { body, signal }), log, signal);
    return outlast(read, log, signal);
  }
}

/** Calls a server that is away again, until `signal` aborts. Throws what no repeat can change. */
async function outlast<Reply>(call: () => Promise<Reply>, log: Log, signal: AbortSignal): Promise<Reply> {
  for (let failed = 0; ; failed++) {
    try {
      return await call();
    } catch (error) {
      if (isFinal(error) || signal.aborted) throw error;
      if (failed === 0) log(`waits for the server: ${(error as Error).message}`);
      await sleep(backoff(failed), signal);
    }
  }
}

function checkHandlers(handlers: Handlers, queues: readonly Queue[]): void {
  for (const { queue, endpoint } of queues) {
    if (!handlers[endpoint] && !handlers['*'])
      throw new TypeError(`there is no handler for ${endpoint}, which queue ${queue} is for`);
  }
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work, late]);
  clearTimeout(timer);
}
