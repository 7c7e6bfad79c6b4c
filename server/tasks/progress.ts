import { createCoalescer } from '../db/coalesce.ts';
import type { Answer } from '../db/end-tasks.ts';
import { type Emitted, emitEvents, type Progress } from '../db/events.ts';
import type { Database } from '../db/open.ts';
import type { Bus } from './bus.ts';
import { type End, refusal } from './end.ts';
import type { Feed } from './feed.ts';
import type { Watchers } from './watchers.ts';

/** What a worker says of a task: progress, or its answer. */
export type WorkerEvent = { progress: Progress } | { answer: Answer };

export function createProgress(db: Database, bus: Bus, watchers: Watchers, feed: Feed, end: End) {
  const emit = createCoalescer<Progress, Emitted>({
    bytes: (event) => event.data?.length ?? 0,
    async run(events) {
      const rows = await emitEvents(db, events);
      feed.rouse();
      for (const [index, row] of rows.entries()) {
        if (row.seq === null) continue;
        const { eventId, eventName, data } = events[index] as Progress;
        watchers.progressed({
          id: row.id,
          seq: row.seq,
          attempt: row.attempt,
          event_id: eventId,
          name: eventName,
          data,
        });
        if (row.mode === 'streaming') bus.progressed(row.id);
      }
      return rows;
    },
  });

  const apply = async (event: WorkerEvent) => {
    if ('answer' in event) return end.complete(event.answer);
    const { verdict } = await emit(event.progress);
    return verdict === 'stored' ? undefined : refusal(verdict, 'reported on', event.progress.attempt);
  };

  /**
   * Applies events in order within each task, different tasks together; gives for each why it was refused, undefined when it was not.
   * Progress of many tasks, and many events of one task in a row, share a call.
   */
  return async function applyEvents(events: readonly WorkerEvent[]): Promise<(Error | undefined)[]> {
    const verdicts: (Error | undefined)[] = new Array(events.length);
    // Each step holds, for every task, its next run of progress events, or its next answer.
    const steps: { event: WorkerEvent; index: number }[][] = [];
    const last = new Map<string, { step: number; answer: boolean }>();
    for (const [index, event] of events.entries()) {
      const answer = 'answer' in event;
      const id = answer ? event.answer.id : event.progress.id;
      const before = last.get(id);
      const step = before === undefined ? 0 : before.answer || answer ? before.step + 1 : before.step;
      last.set(id, { step, answer });
      if (step === steps.length) steps.push([]);
      steps[step]?.push({ event, index });
    }
    for (const step of steps) {
      await Promise.all(
        step.map(async ({ event, index }) => {
          verdicts[index] = await apply(event).catch((error: Error) => error);
        }),
      );
    }
    return verdicts;
  };
}
