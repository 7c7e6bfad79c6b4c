import { hostname } from 'node:os';
import type { Http } from '../http.ts';
import type { UpstreamReport } from '../types.ts';
import type { Log } from './log.ts';

/** How often what a worker says of itself with its takes may change. */
const SAY_MS = 5000;
/** How often an upstream that comes and goes is told. */
const NEWS_MS = 1000;
/** A worker that takes nothing says that it is there. */
const SILENT_MS = 15_000;
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

  /** What nobody knows yet; a take tells it, too. */
  const tell = () => {
    const isNews = statesOf(look()) !== statesOf(said);
    if (!isNews && Date.now() - lookedAt < SILENT_MS) return;
    lookedAt = Number.NEGATIVE_INFINITY;
    void sendNow();
  };

  return {
    /** To be sent with a take. */
    now,
    /** The first word. Throws what the server says to the key. */
    hello: send,
    start(): void {
      timer = setInterval(tell, NEWS_MS);
      timer.unref();
    },
    /** An upstream may have come or gone. */
    changed(): void {
      if (timer !== undefined && Date.now() - sentAt >= NEWS_MS) tell();
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
