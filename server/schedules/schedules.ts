import type { Logger } from 'pino';
import type { Database } from '../db/open.ts';
import type { NewTask, PutTask } from '../db/put-tasks.ts';
import {
  deleteSchedule,
  listSchedules,
  makeSchedule,
  readNow,
  readSchedule,
  type Schedule,
  type ScheduleSettings,
  setSchedule,
} from '../db/schedules.ts';
import { soon } from '../db/soon.ts';
import { notFound } from '../protocol/errors.ts';
import { printScheduleId } from '../protocol/schedules.ts';
import { readCron, ticksAfter } from './cron.ts';
import { createLook } from './look.ts';

/** Schedules, and what puts their tasks. Of several servers that see the same tick one puts its task. */
export function startSchedules(deps: { db: Database; log: Logger; announcePut(rows: readonly PutTask[]): void }) {
  const { db, log } = deps;

  /** Throws 404. `tenantId` null: whoever's it is. */
  const find = async (scheduleId: number, tenantId: number | null): Promise<Schedule> => {
    const schedule = await readSchedule(db, scheduleId, tenantId);
    if (!schedule) throw notFound(`unknown schedule ${printScheduleId(scheduleId)}`);
    return schedule;
  };

  const firstTick = (cron: string, timezone: string, now: number) =>
    ticksAfter(readCron(cron, timezone), now, 1)[0] as number;

  const look = soon(createLook(deps), (error) => log.warn({ err: error }, 'could not look for schedules that are due'));

  return {
    find,
    list: (tenantId: number | null, before: number | null, limit: number) => listSchedules(db, tenantId, before, limit),

    /** The next ticks of an expression. Throws 400. */
    async preview(cron: string, timezone: string, count: number): Promise<number[]> {
      return ticksAfter(readCron(cron, timezone), await readNow(db), count);
    },

    /** Throws 400, 404 for a queue that there is not, 409 for a name that is taken. */
    async create(settings: ScheduleSettings, task: NewTask): Promise<Schedule> {
      const first = firstTick(settings.cron, settings.timezone, await readNow(db));
      const scheduleId = await makeSchedule(db, task, settings, settings.enabled ? first : null, task);
      return find(scheduleId, task.tenantId);
    },

    /** Changes what is given; `task` goes with `changes.task`. Throws as `create` does. */
    async change(
      scheduleId: number,
      tenantId: number | null,
      changes: Partial<ScheduleSettings>,
      task: NewTask | null = null,
    ): Promise<Schedule> {
      for (;;) {
        const was = await find(scheduleId, tenantId);
        const to = { ...was, ...changes };
        // The time before is none that it missed.
        const anew =
          changes.cron !== undefined || changes.timezone !== undefined || (changes.enabled === true && !was.enabled);
        const next = anew ? firstTick(to.cron, to.timezone, was.now) : was.next_run;
        // Somebody changed it meanwhile, or it fired: what is to change is another schedule now.
        if (await setSchedule(db, was, to, to.enabled ? next : null, task)) return find(scheduleId, tenantId);
      }
    },

    /** Throws 404. */
    async remove(scheduleId: number, tenantId: number | null): Promise<void> {
      if (!(await deleteSchedule(db, scheduleId, tenantId)))
        throw notFound(`unknown schedule ${printScheduleId(scheduleId)}`);
    },

    /** Ticks are due. */
    onDue: look,
  };
}
export type Schedules = ReturnType<typeof startSchedules>;
