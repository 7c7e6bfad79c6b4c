import type { TaskAnswer, TaskWrapper, UpstreamReport } from '../worker/executor.ts';
import { type Concurrency, createLimit, type Outcome } from '../worker/limit.ts';
import type { Log } from '../worker/log.ts';
import { answerTooLarge, TooLarge } from '../worker/too-large.ts';
import { createBreaker, type Went } from './breaker.ts';
import type { Dialect } from './dialect.ts';
import { createHealth } from './health.ts';
import { checkNames } from './options.ts';
import { NotAnswered, notAnswered, outcomeOf, upstreamError } from './reply.ts';
import { beginningOf, textOf } from './reply-text.ts';
import { reasonOf, send, Unreachable } from './request.ts';

/** A model server, or what stands before several. */
export type UpstreamOptions = {
  url: string;
  /** Sent as `Authorization: Bearer`. */
  apiKey?: string | undefined;
  headers?: Record<string, string> | undefined;
  /** The queues whose tasks it gets; all by default. */
  queues?: readonly string[] | undefined;
  /** How many calls at once; that of all upstreams by default. */
  concurrency?: Concurrency | undefined;
};

/** How a call ended; undefined when the task was taken from us. */
export type Ended =
  | { answer: TaskAnswer }
  | {
      error: NotAnswered;
      /** A part of the answer has been shown. */
      passedOn: boolean;
      /** The server went away with it, so nothing says that the task is to blame. */
      wentAway: boolean;
    }
  | undefined;

export type Upstream = ReturnType<typeof createUpstream>;

const LOOK_TIMEOUT_MS = 5000;
/** Characters that are read of a reply that is no answer. */
const LONGEST_ERROR = 256 * 1024;
const LONGEST_PAUSE_SECONDS = 5;

/** A model server with a limit and a breaker of its own. Throws TypeError or RangeError for options that can't be. */
export function createUpstream(
  options: UpstreamOptions,
  how: {
    dialect: Dialect;
    concurrency: Concurrency;
    timeoutSeconds: number;
    healthSeconds: number;
    log: Log;
    /** More calls may begin without the end of one, or it went or came. */
    onChange(): void;
  },
) {
  const { dialect, timeoutSeconds, log } = how;
  checkNames(options, ['url', 'apiKey', 'headers', 'queues', 'concurrency'], 'upstreams');
  const base = urlOf(options.url);
  const { queues } = options;
  const headers: Record<string, string> = {
    ...(options.apiKey !== undefined && { Authorization: `Bearer ${options.apiKey}` }),
    ...options.headers,
  };
  const limit = createLimit(options.concurrency ?? how.concurrency, how.onChange);
  const health = createHealth(base.host, log);
  const url = dialect.look?.(base);

  /** The status of the reply to a look. */
  const look = async (): Promise<number> => {
    const reply = await send('GET', url as URL, { headers, signal: AbortSignal.timeout(LOOK_TIMEOUT_MS) });
    reply.resume().on('error', () => undefined);
    const status = reply.statusCode as number;
    if (status >= 500) throw new Error(`it answers ${status}`);
    return status;
  };
  let isOut = false;
  const breaker = createBreaker({
    look: url && (async () => void (await look())),
    longestPauseMs: how.healthSeconds * 1000,
    onAdmits: how.onChange,
    onState(state, why) {
      if (state === 'open' && !isOut) {
        const said = health.last?.message;
        log(`${base.host} is not used for now: ${why}${said === undefined ? '' : `; ${said}`}`);
      }
      if (state === 'closed') log(`${base.host} is used again: ${why}`);
      isOut = state !== 'closed';
      if (isOut) health.out(breaker.cause);
      else health.well();
      how.onChange();
    },
  });
  /** In a row. */
  let refusals = 0;

  const call = async (task: TaskWrapper): Promise<Ended> => {
    const trial = breaker.begin(task.task.task_id);
    let end = limit.begin();
    let passedOn = false;
    let late = false;
    let timer: NodeJS.Timeout | undefined;
    const controller = new AbortController();
    const { signal } = controller;
    const abort = () => controller.abort(task.signal.reason);
    task.signal.addEventListener('abort', abort);
    const ended = (outcome: Outcome, went: Went) => {
      end(outcome);
      trial.end(went);
      refusals = outcome === 'refused' ? refusals + 1 : outcome === 'done' ? 0 : refusals;
    };
    try {
      const answer = await dialect.answer({
        task,
        base,
        headers,
        async post(to, body, more) {
          clearTimeout(timer);
          timer = setTimeout(() => {
            late = true;
            controller.abort();
          }, timeoutSeconds * 1000);
          const reply = await send('POST', to, {
            headers: { ...task.task.headers, 'Content-Type': 'application/json', ...headers, ...more },
            body,
            signal,
          });
          const status = reply.statusCode as number;
          const parts = textOf(reply);
          if (outcomeOf(status) === undefined)
            return { status, headers: reply.headers, parts, maxBytes: task.maxAnswerBytes };
          throw notAnswered(status, reply.headers, await beginningOf(parts, LONGEST_ERROR));
        },
        passOn(eventName, eventData) {
          passedOn = true;
          task.emitProgress(eventName, eventData);
        },
        async aside(work) {
          end('ignored');
          end = limit.begin();
          try {
            return await work;
          } finally {
            end('ignored');
            end = limit.begin();
          }
        },
      });
      ended('done', 'well');
      if (breaker.state === 'closed') health.well();
      return { answer };
    } catch (thrown) {
      if (task.signal.aborted) {
        ended('ignored', 'unknown');
        return undefined;
      }
      if (thrown instanceof TooLarge) {
        ended('done', 'well');
        return { answer: answerTooLarge(thrown) };
      }
      const error = late ? lateFault(timeoutSeconds) : faultOf(thrown);
      health.badly(task.task.task_id, error);
      const isProbe = trial.isProbe;
      ended(error.outcome, error.went);
      // A connection that broke is the server's end, or the task's doing.
      if (!late && !(thrown instanceof NotAnswered)) await breaker.suspect();
      return { error, passedOn, wentAway: breaker.state === 'open' && !isProbe };
    } finally {
      clearTimeout(timer);
      task.signal.removeEventListener('abort', abort);
    }
  };

  return {
    serves: (queue: string) => queues === undefined || queues.includes(queue),
    /** Whether it gets calls now. */
    get admits() {
      return breaker.admits;
    },
    /** How many more calls can begin. */
    get room() {
      if (!breaker.admits) return 0;
      return breaker.state === 'half-open' ? 1 : Math.max(limit.limit - limit.inFlight, 0);
    },
    get load() {
      return limit.inFlight / limit.limit;
    },
    /** Begins at once, whatever the room. */
    call,
    /** The last refusal or failure, while nothing has gone well since. */
    get lastError() {
      return health.last;
    },
    get report(): UpstreamReport {
      return {
        url: base.href,
        ...health.report,
        in_flight: limit.inFlight,
        limit: limit.limit,
        ...(queues && { queues }),
      };
    },
    /** Seconds until a task that it refused should come back: longer the more it refuses, and not for all the same. */
    get comeBackSeconds() {
      const pause = Math.min(LONGEST_PAUSE_SECONDS, 2 ** Math.max(refusals - 1, 0));
      return pause / 2 + (Math.random() * pause) / 2;
    },
    /** Rejects when it does not know our key; opens its breaker when it is away. */
    async check(): Promise<void> {
      if (!url) return;
      const status = await look().catch((error) => {
        health.badly('', refusedFault(error));
        breaker.open('it does not answer');
      });
      if (status === 401) throw new Error(`${base.host} answers 401 to ${url.pathname}: it does not know the apiKey`);
    },
    stop(): void {
      breaker.stop();
      health.stop();
    },
  };
}

function faultOf(error: unknown): NotAnswered {
  if (error instanceof NotAnswered) return error;
  if (error instanceof Unreachable) return refusedFault(error);
  const reason = reasonOf(error as NodeJS.ErrnoException);
  return new NotAnswered('failed', `the connection to the model server broke: ${reason}`, { went: 'badly' });
}

function refusedFault(error: Error): NotAnswered {
  const message = `no connection to the model server: ${reasonOf(error)}`;
  return new NotAnswered('refused', message, {
    answer: { status_code: 502, body: upstreamError(message, 'upstream_refused') },
    went: 'away',
  });
}

function lateFault(timeoutSeconds: number): NotAnswered {
  const message = `no answer within ${timeoutSeconds} seconds`;
  return new NotAnswered('failed', message, {
    answer: { status_code: 504, body: upstreamError(message, 'upstream_timeout') },
    went: 'badly',
  });
}

function urlOf(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url;
  throw new TypeError(`upstreams: ${JSON.stringify(text)} is no http:// or https:// URL`);
}
