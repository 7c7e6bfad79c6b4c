import { hostname } from 'node:os';
import type { Http } from '../http.ts';
import type { UpstreamReport } from './executor.ts';
import type { Log } from './log.ts';

/** How often what a worker says of itself may change, and how often it says so without a take. */
const SAY_MS = 5000;
/** An upstream that comes and goes is told this often. */
const NEWS_MS = 1000;
const TIMEOUT_MS = 5000;
const GOOD_BYE_MS = 1000;

export type WorkerSays = {
  id: string;
  name?: string;
  host: string;
  capacities: Record<string, number>;
  upstreams?: readonly UpstreamReport[];
};

/**
 * What a worker says of itself, for those who look why a task waits: with every take; and in a heartbeat of its own when an upstream comes or goes, and
 * while no room is left to take.
 */
export function createReport(
  http: Http,
  who: { id: string; name?: string },
  look: () => Pick<WorkerSays, 'capacities' | 'upstreams'>,
  log: Log,
) {
  let said: WorkerSays = { ...who, host: hostname(), capacities: {} };
  let lookedAt = Number.NEGATIVE_INFINITY;
  let sentAt = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  let sending = false;
  let failed = false;

  const now = (): WorkerSays => {
    if (Date.now() - lookedAt >= SAY_MS) {
      said = { ...said, ...look() };
      lookedAt = Date.now();
    }
    return said;
  };
  const statesOf = ({ upstreams = [] }: Pick<WorkerSays, 'upstreams'>) =>
    upstreams.map(({ url, state }) => `${state} ${url}`).join();

  const send = async (): Promise<void> => {
    sentAt = Date.now();
    await http.json('POST', '/v1/queue/heartbeat', { body: { tasks: [], worker: now() }, timeoutMs: TIMEOUT_MS });
  };
  const sendNow = async () => {
    if (sending) return;
    sending = true;
    try {
      await send();
      failed = false;
    } catch (error) {
      if (!failed) log(`the server is not told how the upstreams are: ${(error as Error).message}`);
      failed = true;
    }
    sending = false;
  };

  return {
    /** To be sent with a take. */
    now,
    /** The first word. Throws what the server says to the key. */
    hello: send,
    start(): void {
      timer = setInterval(() => {
        if (Date.now() - sentAt >= SAY_MS) void sendNow();
      }, NEWS_MS);
      timer.unref();
    },
    /** An upstream may have come or gone. */
    changed(): void {
      if (timer === undefined || statesOf(look()) === statesOf(said)) return;
      lookedAt = Number.NEGATIVE_INFINITY;
      if (Date.now() - sentAt >= NEWS_MS) void sendNow();
      else sentAt = Date.now() - SAY_MS;
    },
    /** Says good-bye, if it can be heard. */
    async stop(): Promise<void> {
      if (timer === undefined) return;
      clearInterval(timer);
      const body = { tasks: [], worker: { ...who, stopping: true } };
      await http
        .json('POST', '/v1/queue/heartbeat', { body, signal: AbortSignal.timeout(GOOD_BYE_MS) })
        .catch(() => undefined);
    },
  };
}
