import type { Logger } from 'pino';
import { beatInstance, leaveInstance, notifyMany } from '../db/instances.ts';
import { listen } from '../db/listen.ts';
import type { Database } from '../db/open.ts';
import type { Head } from '../db/take-tasks.ts';
import { isBelow } from './heads.ts';

const BEAT_MS = 5000;
/** Shortest time between two notifying commits under load; a quiet server says things at once. */
const GAP_MS = 3;
/** NOTIFY carries less than 8,000 bytes. */
const MAX_BYTES = 7500;

type Wake = [lane: string, rank: number, id: string, count: number];
type Message = {
  from?: number;
  wake?: Wake[];
  ended?: string[];
  events?: string[];
  reading?: string[];
  keys?: true;
  hello?: true;
};

export type BusHandlers = {
  /** Tasks came to wait, the lowest of them at `head`. */
  wake(lane: string, head: Head, count: number): void;
  /** `bySql`: somebody in psql ended them, so what follows an end is up to the servers. */
  ended(ids: string[], progressed: string[], bySql: boolean): void;
  /** Another server has readers of these tasks' streams. */
  readElsewhere(ids: string[]): void;
  keysChanged(): void;
  /** Messages may have been lost. */
  lookAround(): void;
};

/**
 * What servers tell each other: hints, through one NOTIFY channel, while the tables hold the truth. One channel for all, since Postgres
 * before 19 wakes every listening backend whatever the channel, and a stream's readers can sit on any server. Nothing is said
 * while this server is alone.
 */
export async function startBus(options: {
  db: Database;
  url: string;
  instance: string;
  log: Logger;
  handlers: BusHandlers;
}) {
  const { db, url, instance, log, handlers } = options;
  const first = await beatInstance(db, instance, true);
  const { instance_id: instanceId } = first;
  let others = first.others;

  let wakes = new Map<string, Wake>();
  let ended = new Set<string>();
  let events = new Set<string>();
  let rest: Message[] = [];
  let busy = false;

  const collect = (): string[] => {
    const entries: [keyof Message, unknown][] = [
      ...[...wakes.values()].map((wake): [keyof Message, unknown] => ['wake', wake]),
      ...[...ended].map((id): [keyof Message, unknown] => ['ended', id]),
      ...[...events].map((id): [keyof Message, unknown] => ['events', id]),
    ];
    const messages = rest.map((message) => JSON.stringify({ from: instanceId, ...message }));
    wakes = new Map();
    ended = new Set();
    events = new Set();
    rest = [];
    let message: Record<string, unknown> = { from: instanceId };
    let bytes = 50;
    for (const [kind, entry] of entries) {
      const size = JSON.stringify(entry).length + 12;
      if (bytes + size > MAX_BYTES) {
        messages.push(JSON.stringify(message));
        message = { from: instanceId };
        bytes = 50;
      }
      const list = message[kind] as unknown[] | undefined;
      if (list) list.push(entry);
      else message[kind] = [entry];
      bytes += size;
    }
    if (bytes > 50) messages.push(JSON.stringify(message));
    return messages;
  };

  const flush = async () => {
    busy = true;
    while (wakes.size + ended.size + events.size + rest.length > 0) {
      const started = performance.now();
      try {
        await notifyMany(db, collect());
      } catch (error) {
        log.warn({ err: error }, 'could not tell other servers; they will see for themselves');
      }
      const left = GAP_MS - (performance.now() - started);
      if (left > 0 && wakes.size + ended.size + events.size > 0)
        await new Promise((resolve) => setTimeout(resolve, left));
    }
    busy = false;
  };
  const say = () => {
    if (!busy) void flush();
  };

  const beat = async () => {
    try {
      others = (await beatInstance(db, instance, false)).others;
    } catch (error) {
      log.warn({ err: error }, 'could not give a sign of life');
    }
  };
  const timer = setInterval(beat, BEAT_MS);

  const listener = listen(url, log, {
    onMessage(text) {
      const message = parse(text);
      if (!message || message.from === instanceId) return;
      if (message.hello) others = Math.max(others, 1);
      for (const [lane, rank, id, count] of message.wake ?? []) handlers.wake(lane, { rank, id }, count);
      if (message.ended || message.events)
        handlers.ended(message.ended ?? [], message.events ?? [], message.from === undefined);
      if (message.reading) handlers.readElsewhere(message.reading);
      if (message.keys) handlers.keysChanged();
    },
    onReady() {
      rest.push({ hello: true });
      say();
      handlers.lookAround();
    },
  });

  return {
    instanceId,
    /** Tasks came to wait, the lowest of them at `head`. */
    wake(lane: string, head: Head, count: number): void {
      if (others === 0) return;
      const there = wakes.get(lane);
      if (there) {
        there[3] += count;
        if (isBelow(head, { rank: there[1], id: there[2] })) [there[1], there[2]] = [head.rank, head.id];
      } else wakes.set(lane, [lane, head.rank, head.id, count]);
      say();
    },
    ended(id: string): void {
      if (others === 0) return;
      ended.add(id);
      say();
    },
    progressed(id: string): void {
      if (others === 0) return;
      events.add(id);
      say();
    },
    /** This server has a reader of a stream that another one may look after. */
    reading(id: string): void {
      if (others === 0) return;
      rest.push({ reading: [id] });
      say();
    },
    keysChanged(): void {
      rest.push({ keys: true });
      say();
    },
    async stop(): Promise<void> {
      clearInterval(timer);
      await listener.stop();
      await leaveInstance(db, instance).catch(() => undefined);
    },
  };
}
export type Bus = Awaited<ReturnType<typeof startBus>>;

/** Anyone with the database's password can notify; what is not a message is nothing. */
function parse(text: string): Message | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Message) : undefined;
  } catch {
    return undefined;
  }
}
