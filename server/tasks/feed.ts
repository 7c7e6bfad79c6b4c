import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Principal } from '../auth/auth.ts';
import { createCoalescer } from '../db/coalesce.ts';
import { checkQueue, type FeedFilter, type FeedRow, numberEvents, openFeed, readFeed, tenantOf } from '../db/feed.ts';
import type { Database } from '../db/open.ts';
import { outlast } from '../db/outlast.ts';
import { badRequest, notFound } from '../protocol/errors.ts';
import type { EventType, FeedRequest } from '../protocol/feed.ts';
import { parseBatchId, parseTaskId } from '../protocol/ids.ts';
import { minifyJson } from '../protocol/json.ts';

/** An event as the wire has it; `json` is one line. */
export type FeedEvent = { number: number; type: EventType; json: string };

/** How often to look for what other servers and psql do, and the shortest time between two rounds. */
const POLL_MS = 200;
const GAP_MS = 20;
const AFTER_ERROR_MS = 1000;
const RENEW_MS = 60_000;

const NUMBER_AT_ONCE = 5000;
const READ_AT_ONCE = 1000;
/** Below the highest staged event that was seen moved, so many may still come: their transactions are open. */
const SEQ_SLACK = 10_000;
/** How often to look at the bottom, for those that were open even longer. */
const FROM_BOTTOM_MS = 10_000;

/** What may wait in memory for a slow reader. Beyond that it is forgotten, and read from the table when its turn comes. */
const MAX_FRESH = 1000;
const MAX_FRESH_LENGTH = 1 << 20;

const EVERYTHING: FeedFilter = { tenantId: null, types: null, queue: null, id: null, batchId: null };

type Follower = {
  filter: FeedFilter;
  /** Gets what the loop reads; otherwise it reads from the table by itself. */
  live: boolean;
  fresh: FeedEvent[];
  freshLength: number;
  wake: (() => void) | undefined;
};

/**
 * What happens to tasks, by number. One loop numbers and reads for all feeds of this process that are up to date; the others read from the
 * table until they are. Nothing runs while no feed is open.
 */
export function createFeed(db: Database, log: Logger, keepSeconds: number) {
  const followers = new Set<Follower>();
  const stopping = new AbortController();
  /** All events up to this number have been dealt out. */
  let position = 0;
  let highestSeq = 0;
  let fromBottomAt = 0;
  let renewAt = 0;
  let loop: Promise<void> | undefined;
  let roused = false;
  let wake: (() => void) | undefined;

  /** Has events recorded from now on; gives the highest number of what was before. */
  const record = createCoalescer<undefined, number>({
    async run(callers) {
      const newest = await openFeed(db, keepSeconds);
      return callers.map(() => newest);
    },
  });

  /** This process changed tasks. */
  const rouse = (): void => {
    roused = true;
    wake?.();
  };

  const number = async () => {
    for (let moved = NUMBER_AT_ONCE; moved === NUMBER_AT_ONCE; ) {
      const fromBottom = performance.now() >= fromBottomAt;
      const numbered = await numberEvents(db, fromBottom ? 0 : Math.max(0, highestSeq - SEQ_SLACK), NUMBER_AT_ONCE);
      if (!numbered) {
        // Whoever is at it may have begun before our own changes.
        roused = true;
        return;
      }
      moved = numbered.moved;
      highestSeq = Math.max(highestSeq, numbered.lastSeq);
      if (fromBottom && moved < NUMBER_AT_ONCE) fromBottomAt = performance.now() + FROM_BOTTOM_MS;
    }
  };

  const dealOut = (rows: readonly FeedRow[]) => {
    for (const row of rows) {
      position = Number(row.number);
      if (row.task_id === null) continue;
      let event: FeedEvent | undefined;
      for (const follower of followers) {
        if (!follower.live || !matches(row, follower.filter)) continue;
        event ??= toEvent(row);
        follower.fresh.push(event);
        follower.freshLength += event.json.length;
        if (follower.fresh.length > MAX_FRESH || follower.freshLength > MAX_FRESH_LENGTH) {
          Object.assign(follower, { live: false, fresh: [], freshLength: 0 });
        }
        follower.wake?.();
      }
    }
  };

  const round = async () => {
    if (performance.now() >= renewAt) {
      await record(undefined);
      renewAt = performance.now() + Math.min(RENEW_MS, keepSeconds * 250);
    }
    await number();
    for (;;) {
      const rows = await readFeed(db, position, READ_AT_ONCE, EVERYTHING);
      if (rows.length === 0) return;
      dealOut(rows);
    }
  };

  /** Until something may have happened, and the shortest time since the last round is over. */
  const pause = async (started: number) => {
    if (!roused) {
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      const timer = setTimeout(resolve, POLL_MS);
      await promise;
      clearTimeout(timer);
      wake = undefined;
    }
    const left = GAP_MS - (performance.now() - started);
    if (left > 0) await sleep(left);
  };

  const run = async () => {
    while (followers.size > 0 && !stopping.signal.aborted) {
      const started = performance.now();
      roused = false;
      try {
        await outlast(round, stopping.signal);
      } catch (error) {
        if (stopping.signal.aborted) break;
        log.warn({ err: error }, 'could not read what happened to tasks; trying again');
        await sleep(AFTER_ERROR_MS);
      }
      await pause(started);
    }
    loop = undefined;
  };

  const filterOf = async (request: FeedRequest, principal: Principal): Promise<FeedFilter> => {
    const tenantId = principal.role === 'admin' ? null : principal.tenantId;
    let id: string | null = null;
    if (request.task_id != null) {
      id = parseTaskId(request.task_id) ?? null;
      const owner = id === null ? undefined : await tenantOf(db, id);
      if (owner === undefined || (tenantId !== null && owner !== tenantId)) {
        throw notFound(`unknown task ${request.task_id}`);
      }
    }
    if (request.queue != null) await checkQueue(db, request.queue);
    if (request.batch_id != null && parseBatchId(request.batch_id) === undefined) {
      throw notFound(`unknown batch ${request.batch_id}`);
    }
    return {
      tenantId,
      types: request.types ?? null,
      queue: request.queue ?? null,
      id,
      batchId: request.batch_id ?? null,
    };
  };

  async function* follow(
    filter: FeedFilter,
    after: number,
    newest: number,
    signal: AbortSignal,
  ): AsyncGenerator<FeedEvent> {
    const follower: Follower = { filter, live: false, fresh: [], freshLength: 0, wake: undefined };
    const onAbort = () => follower.wake?.();
    signal.addEventListener('abort', onAbort);
    let cursor = after;
    followers.add(follower);
    if (!loop) {
      position = newest;
      loop = run();
    }
    try {
      while (!signal.aborted) {
        if (!follower.live && cursor >= position) {
          // Nothing is awaited between the look and this, so nothing is dealt out in between.
          follower.live = true;
        } else if (!follower.live) {
          const dealt = position;
          const rows = await outlast(() => readFeed(db, cursor, READ_AT_ONCE, filter), signal);
          for (const row of rows) {
            if (signal.aborted) return;
            if (row.task_id !== null) yield toEvent(row);
            cursor = Number(row.number);
          }
          // What was there before is deleted.
          if (rows.length === 0) cursor = Math.max(cursor, dealt);
        } else if (follower.fresh.length > 0) {
          const event = follower.fresh.shift() as FeedEvent;
          follower.freshLength -= event.json.length;
          if (event.number <= cursor) continue;
          cursor = event.number;
          yield event;
        } else {
          const { promise, resolve } = Promise.withResolvers<void>();
          follower.wake = resolve;
          await promise;
          follower.wake = undefined;
        }
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
      followers.delete(follower);
      if (followers.size === 0) rouse();
    }
  }

  return {
    rouse,
    /**
     * Opens a feed of what the caller may see. Every event from now on is in what it gives, or every one after `last_event_id`, each once and
     * in order, until `signal` aborts. Throws 404 for an unknown queue, or a task that is not the caller's, and 400 for an id that no event
     * has had.
     */
    async open(
      request: FeedRequest,
      principal: Principal,
    ): Promise<(signal: AbortSignal) => AsyncGenerator<FeedEvent>> {
      const filter = await filterOf(request, principal);
      const newest = await record(undefined);
      const after = request.last_event_id == null ? newest : Number(request.last_event_id);
      if (after > newest) throw badRequest(`Last-Event-ID: ${after} is not the id of an event`);
      return (signal) => follow(filter, after, newest, signal);
    },
    async stop(): Promise<void> {
      stopping.abort();
      rouse();
      await loop;
    },
  };
}
export type Feed = ReturnType<typeof createFeed>;

/** The same as the conditions in read_feed. */
function matches(row: FeedRow, { tenantId, types, queue, id, batchId }: FeedFilter): boolean {
  return (
    (tenantId === null || row.tenant_id === tenantId) &&
    (types === null || types.includes(row.type)) &&
    (queue === null || row.queue === queue) &&
    (id === null || row.id === id) &&
    (batchId === null || row.batch_id === batchId)
  );
}

function toEvent(row: FeedRow): FeedEvent {
  const fields = JSON.stringify({
    type: row.type,
    task_id: row.task_id,
    queue: row.queue,
    level: row.level,
    status: row.status,
    attempt: row.attempt,
    timestamp: row.created_at,
    batch_id: row.batch_id ?? undefined,
  });
  const json = row.data === null ? fields : `${fields.slice(0, -1)},"data":${minifyJson(row.data)}}`;
  return { number: Number(row.number), type: row.type, json };
}
