import type { Database } from './open.ts';

export type Progress = {
  id: string;
  attempt: number | null;
  eventId: string | null;
  eventName: string;
  /** JSON, or null where the worker sent none. */
  data: string | null;
  /** It may be stored already. */
  repeated: boolean;
};

/** `stored`, `unknown`, or the state that forbids it. */
export type Emitted = {
  id: string;
  verdict: string;
  /** null where nothing was stored, or it was before. */
  seq: number | null;
  attempt: number | null;
  mode: string | null;
  instance_id: number | null;
};

export type StoredEvent = {
  id: string;
  seq: number;
  /** The one that reported it. */
  attempt: number | null;
  event_id: string | null;
  name: string;
  data: string | null;
};

/** Stores progress of running tasks, numbered in the order given. */
export function emitEvents(db: Database, events: readonly Progress[]) {
  return db.call<Emitted>(
    'emit_events',
    [
      events.map((event) => event.id),
      events.map((event) => event.attempt),
      events.map((event) => event.eventId),
      events.map((event) => event.eventName),
      events.map((event) => event.data),
      events.map((event) => event.repeated),
    ],
    ['bigint[]', 'int[]', 'text[]', 'text[]', 'text[]', 'boolean[]'],
  );
}

/** Each task's events after a number, at most `limit` of each, in order. */
export function readEvents(db: Database, after: readonly { id: string; seq: number }[], limit: number) {
  return db.call<StoredEvent>(
    'read_events',
    [after.map((task) => task.id), after.map((task) => task.seq), limit],
    ['bigint[]', 'int[]', 'int'],
  );
}

/** The number of the latest event that bears this id, 0 for none. */
export async function findEvent(db: Database, id: string, eventId: string): Promise<number> {
  const [found] = await db.call<{ find_event: number }>('find_event', [id, eventId], ['bigint', 'text']);
  return found?.find_event ?? 0;
}
