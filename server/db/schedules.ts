import { sql } from 'slonik';
import type { Missed } from '../protocol/schedules.ts';
import type { Database } from './open.ts';
import { type NewTask, PUT_TYPES, type PutTask, putArguments } from './put-tasks.ts';

/** What its owner decides. */
export type ScheduleSettings = {
  name: string;
  cron: string;
  timezone: string;
  /** A put's body, as it was given. */
  task: string;
  enabled: boolean;
  missed: Missed;
};

export type Schedule = ScheduleSettings & {
  schedule_id: number;
  next_run: number | null;
  last_run: number | null;
  /** A bigint. */
  run_count: string;
  last_task_id: string | null;
  last_error: string | null;
  /** Changes with every change. */
  version: string;
  /** The database's clock. */
  now: number;
};

export type DueSchedule = Pick<
  Schedule,
  'schedule_id' | 'cron' | 'timezone' | 'task' | 'missed' | 'version' | 'now'
> & {
  tenant_id: number;
  key_id: number | null;
  next_run: number;
};

/** Where a task goes, for the database to judge. */
type Route = Pick<NewTask, 'queue' | 'endpoint' | 'model'>;

/** The database's clock. */
export async function readNow(db: Database): Promise<number> {
  const [row] = await db.query<{ now: number }>(sql.unsafe`select now()`);
  return (row as { now: number }).now;
}

/** The number of a new schedule. */
export async function makeSchedule(
  db: Database,
  who: { tenantId: number; keyId: number | null },
  settings: ScheduleSettings,
  nextRun: number | null,
  route: Route,
): Promise<number> {
  const [made] = await db.call<{ make_schedule: number }>(
    'make_schedule',
    [who.tenantId, who.keyId, ...settingsOf(settings, nextRun, route)],
    ['int', 'int', ...SETTING_TYPES],
  );
  return (made as { make_schedule: number }).make_schedule;
}

/** Whether the schedule was still as it was read, and so has changed. `route`: where a new task goes; null where it is the one it was. */
export async function setSchedule(
  db: Database,
  read: Pick<Schedule, 'schedule_id' | 'version'>,
  settings: ScheduleSettings,
  nextRun: number | null,
  route: Route | null,
): Promise<boolean> {
  const [row] = await db.call<{ set_schedule: boolean }>(
    'set_schedule',
    [read.schedule_id, read.version, ...settingsOf(settings, nextRun, route)],
    ['int', 'xid', ...SETTING_TYPES],
  );
  return row?.set_schedule === true;
}

/** A schedule, if it is that tenant's (null: anybody's). */
export async function readSchedule(
  db: Database,
  scheduleId: number,
  tenantId: number | null,
): Promise<Schedule | undefined> {
  const [schedule] = await db.query<Schedule>(sql.unsafe`
    select ${COLUMNS} from tasklane.schedule s
    where s.schedule_id = ${scheduleId} and (${tenantId}::int is null or s.tenant_id = ${tenantId})`);
  return schedule;
}

/** Schedules, newest first, as many as fit into 32 MiB and one at least; and whether there are more. */
export async function listSchedules(
  db: Database,
  tenantId: number | null,
  before: number | null,
  limit: number,
): Promise<{ schedules: readonly Schedule[]; more: boolean }> {
  const rows = await db.query<Schedule & { last: boolean }>(sql.unsafe`
    with page as (
      select s.schedule_id, octet_length(s.task::text) as size from tasklane.schedule s
      where (${tenantId}::int is null or s.tenant_id = ${tenantId}) and (${before}::int is null or s.schedule_id < ${before})
      order by s.schedule_id desc limit ${limit + 1}
    ), sized as (
      select p.*, row_number() over w as nth, sum(p.size) over w as bytes, count(*) over () as found
      from page p window w as (order by p.schedule_id desc)
    )
    select ${COLUMNS}, z.nth = z.found as last from sized z join tasklane.schedule s using (schedule_id)
    where z.nth <= ${limit} and (z.nth = 1 or z.bytes <= 32 * 1024 * 1024) order by z.nth`);
  return { schedules: rows, more: rows.at(-1)?.last === false };
}

/** Whether there was such a schedule. */
export async function deleteSchedule(db: Database, scheduleId: number, tenantId: number | null): Promise<boolean> {
  const gone = await db.query(sql.unsafe`
    delete from tasklane.schedule
    where schedule_id = ${scheduleId} and (${tenantId}::int is null or tenant_id = ${tenantId}) returning schedule_id`);
  return gone.length > 0;
}

/** Schedules whose tick has come, the most overdue first. */
export function dueSchedules(db: Database, limit: number) {
  return db.call<DueSchedule>('due_schedules', [limit], ['int']);
}

/** Puts the task of a schedule's tick and goes on to the next. No row when somebody else came first. */
export function fireSchedule(db: Database, due: DueSchedule, next: number | null, task: NewTask) {
  return db.call<PutTask>(
    'fire_schedule',
    [due.schedule_id, due.version, timestamp(next), ...putArguments([[task]], null)],
    ['int', 'xid', 'timestamptz', ...PUT_TYPES],
  );
}

/** Goes on to a schedule's next tick without a task; `error` says why there can't be one. */
export async function passSchedule(
  db: Database,
  due: DueSchedule,
  next: number | null,
  error: string | null,
): Promise<void> {
  await db.call(
    'pass_schedule',
    [due.schedule_id, due.version, timestamp(next), error],
    ['int', 'xid', 'timestamptz', 'text'],
  );
}

const COLUMNS = sql.fragment`
  s.schedule_id, s.name, s.cron, s.timezone, s.task::text, s.enabled, s.missed, s.next_run, s.last_run, s.run_count, s.last_task_id,
  s.last_error, s.xmin::text as version, now()`;

const SETTING_TYPES = [
  ...['text', 'text', 'text', 'json', 'boolean', 'text', 'timestamptz'],
  ...['text', 'text', 'text'],
];

function settingsOf(settings: ScheduleSettings, nextRun: number | null, route: Route | null) {
  const { name, cron, timezone, task, enabled, missed } = settings;
  return [
    ...[name, cron, timezone, task, enabled, missed, timestamp(nextRun)],
    ...[route?.queue ?? null, route?.endpoint ?? null, route?.model ?? null],
  ];
}

const timestamp = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
