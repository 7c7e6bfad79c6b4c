import type { Logger } from 'pino';
import { isPassing } from '../db/errors.ts';
import type { Database } from '../db/open.ts';
import type { NewTask, PutTask } from '../db/put-tasks.ts';
import { type DueSchedule, dueSchedules, fireSchedule, passSchedule } from '../db/schedules.ts';
import { putBody } from '../protocol/tasks.ts';
import { newTask } from '../tasks/new-task.ts';
import { readCron } from './cron.ts';

/** A tick that is handled later than this was missed. */
const ON_TIME_MS = 5000;
/** A look handles this many ticks, and then leaves what is due to the next one. */
const MAX_TICKS = 500;
/** Their commits are flushed together. */
const AT_ONCE = 4;

/**
 * Handles what is due: every schedule in turn by one tick, then again while there is more. Any number of servers may look at the same
 * time. Throws when the database is away.
 */
export function createLook(deps: { db: Database; log: Logger; announcePut(rows: readonly PutTask[]): void }) {
  const { db, log, announcePut } = deps;

  const handle = async (due: DueSchedule): Promise<void> => {
    let next: number | null = null;
    try {
      const step = nextStep(due);
      next = step.next;
      if (step.fires) announcePut(await fireSchedule(db, due, next, taskOf(due)));
      else await passSchedule(db, due, next, null);
    } catch (error) {
      if (isPassing(error)) throw error;
      // What was taken once is not any more, after an upgrade say. The tick is given up, or it would be tried for ever.
      log.error({ err: error, schedule: due.schedule_id }, 'could not put the task of a schedule');
      await passSchedule(db, due, next, (error as Error).message);
    }
  };

  return async (): Promise<void> => {
    for (let left = MAX_TICKS; left > 0; ) {
      const due = await dueSchedules(db, left);
      if (due.length === 0) return;
      for (let from = 0; from < due.length; from += AT_ONCE)
        await Promise.all(due.slice(from, from + AT_ONCE).map(handle));
      left -= due.length;
    }
  };
}

/** Whether a schedule's tick puts a task, and the tick that follows. */
function nextStep({ cron, timezone, missed, next_run: tick, now }: DueSchedule): {
  fires: boolean;
  next: number | null;
} {
  const timetable = readCron(cron, timezone);
  const onTimeFrom = now - ON_TIME_MS;
  if (tick >= onTimeFrom || missed === 'all') return { fires: true, next: timetable(tick) };
  return { fires: missed === 'one', next: timetable(onTimeFrom - 1) };
}

function taskOf({ task, tenant_id: tenantId, key_id: keyId }: DueSchedule): NewTask {
  return newTask(putBody.parse(JSON.parse(task)), task, { tenantId, keyId });
}
