import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { z } from 'zod';
import { beatInstance, leaveInstance, notifyMany } from '../db/instances.ts';
import { listen } from '../db/listen.ts';
import type { Database } from '../db/open.ts';
import type { Head } from '../db/take-tasks.ts';
import { parseTaskId } from '../protocol/ids.ts';
import { isBelow } from './heads.ts';
import type { Gone } from './holders.ts';
import { queueOf } from './pollers.ts';
import type { Answered } from './watchers.ts';

const BEAT_MS = 5000;
/** Shortest time between two notifying commits under load; a quiet server says things at once. */
const GAP_MS = 3;
/** What nobody waits for is said within this time: takes that are not asleep look by themselves, and every server hears every message. */
const LATER_MS = 100;
/** Calls of so few tell other servers with their own commit, which saves one. Commits that notify follow one another, each with its flush. */
const FEW = 4;
/** How often a server says that takes sleep in a lane here, and for how long the others remember. */
const ASLEEP_MS = 4000;
const REMEMBER_MS = 10_000;
/** NOTIFY carries less than 8,000 bytes. */
const MAX_BYTES = 7500;

/** Lists of ids, of lanes for `free`, `room` and `asleep`, of queues for `turns`, of workers for `drain`. */
const LISTS = ['ended', 'events', 'reading', 'free', 'room', 'asleep', 'turns', 'drain'] as const;
type List = (typeof LISTS)[number];

const list = z.array(z.string()).default([]);
// Checked, because anyone with the database's password can notify.
const message = z.object({
  from: z.number().optional(),
  wake: z.array(z.tuple([z.string(), z.number(), z.string(), z.number()])).default([]),
  ended: list,
  events: list,
  reading: list,
  free: list,
  room: list,
  asleep: list,
  turns: list,
  drain: list,
  /** A worker, its task, and the attempt. */
  gone: z.array(z.tuple([z.string().nullable(), z.string(), z.number()])).default([]),
  keys: z.boolean().default(false),
  hello: z.boolean().default(false),
});
/** An id, outcome, status code, body and headers. */
const answer = z.tuple([z.string(), z.enum(['succeeded', 'failed']), z.number(), z.string(), z.string().nullable()]);
type Wake = z.infer<typeof message>['wake'][number];

export type BusHandlers = {
  /** Tasks came to wait, the lowest of them at `head`. */
  wake(lane: string, head: Head, count: number): void;
  /** `bySql`: somebody in psql ended them, so what follows an end is up to the servers. */
  ended(ids: string[], progressed: string[], bySql: boolean): void;
  /** A task of a client here was answered on another server. */
  answered(id: string, how: Answered): void;
  /** A running task of this lane's queue ended on another server. */
  free(lane: string): void;
  /** The same, in a queue with max_running. */
  room(lane: string): void;
  /** These workers were told to drain, or to go on. */
  drain(workers: string[]): void;
  /** Attempts that somebody else than their workers has ended, here too. */
  gone(attempts: Gone[]): void;
  /** Another server has readers of these tasks' streams. */
  readElsewhere(ids: string[]): void;
  keysChanged(): void;
  /** Messages may have been lost. */
  lookAround(): void;
};

/** Three servers and more on one database: their calls are many, and small. */
export const isCrowd = (otherServers: number): boolean => otherServers >= 2;

/**
 * What servers tell each other: hints, through one NOTIFY channel, while the tables hold the truth. One channel for all, since Postgres
 * before 19 wakes every listening backend whatever the channel, and a stream's readers can sit on any server. Nothing is said
 * while this server is alone. Small answers to blocking clients come by a channel whose name only this server and the database know, and are
 * believed.
 */
export async function startBus(options: {
  db: Database;
  url: string;
  instance: string;
  log: Logger;
  handlers: BusHandlers;
}) {
  const { db, url, instance, log, handlers } = options;
  const answerChannel = `tasklane_${randomBytes(16).toString('hex')}`;
  const first = await beatInstance(db, instance, answerChannel);
  const { instance_id: instanceId } = first;
  let others = first.others;

  let wakes = new Map<string, Wake>();
  let lists = emptyLists();
  let flags: { hello?: true; keys?: true } = {};
  let busy = false;
  let urgent = false;
  let later: NodeJS.Timeout | undefined;
  /** Until when takes are known to sleep on other servers: in a lane, in one of a queue's, for a turn in a queue. */
  const awaited = new Map<string, number>();
  const isAwaited = (what: string) => (awaited.get(what) ?? 0) > performance.now();
  /** When it was last said that takes sleep here. */
  const saidAt = new Map<string, number>();

  const flush = async () => {
    busy = true;
    while (urgent) {
      urgent = false;
      clearTimeout(later);
      later = undefined;
      const started = performance.now();
      const messages = pack({ from: instanceId, ...flags }, [
        ...[...wakes.values()].map((wake) => ['wake', wake] as const),
        ...LISTS.flatMap((name) => [...lists[name]].map((entry) => [name, entry] as const)),
      ]);
      wakes = new Map();
      lists = emptyLists();
      flags = {};
      try {
        await notifyMany(db, messages);
      } catch (error) {
        log.warn({ err: error }, 'could not tell other servers; they will see for themselves');
      }
      const left = GAP_MS - (performance.now() - started);
      if (left > 0 && urgent) await new Promise((resolve) => setTimeout(resolve, left));
    }
    busy = false;
  };
  const say = () => {
    urgent = true;
    if (!busy) void flush();
  };
  const sayLater = () => {
    later ??= setTimeout(say, LATER_MS);
  };
  const tell =
    (name: List, isUrgent: (entry: string) => boolean = () => true) =>
    (entry: string) => {
      if (others === 0) return;
      lists[name].add(entry);
      if (isUrgent(entry)) say();
      else sayLater();
    };
  const tellAsleep = tell('asleep');
  const tellTurns = tell('turns');
  const isNews = (what: string) => {
    if (performance.now() - (saidAt.get(what) ?? Number.NEGATIVE_INFINITY) < ASLEEP_MS) return false;
    saidAt.set(what, performance.now());
    return true;
  };

  const beat = async () => {
    try {
      others = (await beatInstance(db, instance, null)).others;
    } catch (error) {
      log.warn({ err: error }, 'could not give a sign of life');
    }
  };
  const timer = setInterval(beat, BEAT_MS);

  const listener = listen(url, log, {
    onMessage: {
      tasklane(text) {
        const heard = parse(message, text);
        if (!heard || heard.from === instanceId) return;
        if (heard.hello) {
          others = Math.max(others, 1);
          saidAt.clear();
        }
        const until = performance.now() + REMEMBER_MS;
        for (const lane of heard.asleep) for (const what of [lane, queueOf(lane)]) awaited.set(what, until);
        for (const queue of heard.turns) awaited.set(turnOf(queue), until);
        for (const [lane, rank, id, count] of heard.wake) handlers.wake(lane, { rank, id }, count);
        if (heard.ended.length + heard.events.length > 0) {
          handlers.ended(heard.ended, heard.events, heard.from === undefined);
        }
        for (const lane of heard.free) handlers.free(lane);
        for (const lane of heard.room) handlers.room(lane);
        if (heard.drain.length > 0) handlers.drain(heard.drain);
        if (heard.gone.length > 0) {
          handlers.gone(
            heard.gone.flatMap(([worker, taskId, attempt]) => {
              const id = parseTaskId(taskId);
              return id === undefined ? [] : [{ worker, taskId, id, attempt }];
            }),
          );
        }
        if (heard.reading.length > 0) handlers.readElsewhere(heard.reading);
        if (heard.keys) handlers.keysChanged();
      },
      [answerChannel](text) {
        const heard = parse(answer, text);
        if (!heard) return;
        const [id, outcome, status_code, body, headers] = heard;
        handlers.answered(id, { outcome, status_code, body, headers });
      },
    },
    onReady() {
      flags.hello = true;
      say();
      handlers.lookAround();
    },
  });

  return {
    instanceId,
    /** How many other servers there are. */
    others: (): number => others,
    /** Whether a call of so many tasks is to tell other servers with its commit what they wait for. */
    tellsWithCommit: (tasks: number): boolean => others > 0 && tasks <= FEW,
    /** Whether takes sleep in a lane on other servers. */
    isAwaited,
    /** Tasks came to wait, the lowest of them at `head`. */
    wake(lane: string, head: Head, count: number): void {
      if (others === 0) return;
      const there = wakes.get(lane);
      if (there) {
        there[3] += count;
        if (isBelow(head, { rank: there[1], id: there[2] })) [there[1], there[2]] = [head.rank, head.id];
      } else wakes.set(lane, [lane, head.rank, head.id, count]);
      if (isAwaited(lane)) say();
      else sayLater();
    },
    /** A take sleeps here; `sequential`: for its turn, too. */
    asleep(lanes: readonly string[], sequential: boolean): void {
      if (others === 0) return;
      for (const lane of lanes) {
        if (isNews(lane)) tellAsleep(lane);
        const queue = queueOf(lane);
        if (sequential && isNews(turnOf(queue))) tellTurns(queue);
      }
    },
    /** The task has ended. */
    ended: tell('ended'),
    /** The task has new events. */
    progressed: tell('events'),
    /** This server has a reader of a stream that another one may look after. */
    reading: tell('reading'),
    /** A running task of this lane's queue ended, so that its next one may be taken in sequence. */
    free: tell('free', (lane) => isAwaited(turnOf(queueOf(lane)))),
    /** The same in a queue with max_running, so that one more may be taken. */
    room: tell('room', (lane) => isAwaited(queueOf(lane))),
    keysChanged(): void {
      flags.keys = true;
      say();
    },
    async stop(): Promise<void> {
      clearInterval(timer);
      if (later) {
        clearTimeout(later);
        urgent = true;
        if (!busy) await flush();
      }
      await listener.stop();
      await leaveInstance(db, instance).catch(() => undefined);
    },
  };
}
const turnOf = (queue: string) => `turn ${queue}`;

export type Bus = Awaited<ReturnType<typeof startBus>>;

const emptyLists = (): Record<List, Set<string>> => ({
  ended: new Set(),
  events: new Set(),
  reading: new Set(),
  free: new Set(),
  room: new Set(),
  asleep: new Set(),
  turns: new Set(),
  drain: new Set(),
});

/** Messages that carry the entries, each in the list it names, none too long for NOTIFY; the first has `head` as well. */
function pack(head: { from: number }, entries: readonly (readonly [string, unknown])[]): string[] {
  const messages: Record<string, unknown>[] = [{ ...head }];
  let bytes = 100;
  for (const [name, entry] of entries) {
    const size = Buffer.byteLength(JSON.stringify(entry)) + 12;
    if (bytes + size > MAX_BYTES) {
      messages.push({ from: head.from });
      bytes = 100;
    }
    bytes += size;
    const last = messages.at(-1) as Record<string, unknown[]>;
    last[name] ??= [];
    last[name].push(entry);
  }
  return messages.map((one) => JSON.stringify(one));
}

function parse<Schema extends z.ZodType>(schema: Schema, text: string): z.infer<Schema> | undefined {
  try {
    return schema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}
