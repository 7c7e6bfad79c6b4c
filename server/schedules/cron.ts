import { Cron } from 'croner';
import { badRequest } from '../protocol/errors.ts';

// croner would also take a date (once), years, L, W, #, + and ?: what other crons do not read alike is refused.
const FIELDS = /^(?:[\d*,/ \t-]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat)+$/i;
const NICKNAME = /^@(?:yearly|annually|monthly|weekly|daily|midnight|hourly)$/i;

/** Gives the first tick after a time, both epoch ms; null when none comes. */
export type Timetable = (after: number) => number | null;

/**
 * When a cron expression is due in a time zone. A fixed time that the clocks leave out comes when they go on, and one that they repeat
 * comes once; with a wildcard or a step it follows the time that passes. Throws 400, which names the field at fault.
 */
export function readCron(cron: string, timezone: string): Timetable {
  const expression = cron.trim();
  if (!FIELDS.test(expression) && !NICKNAME.test(expression)) {
    throw fault('cron', 'write five fields, or six with seconds first, of numbers, names, *, ranges, lists and steps');
  }
  if (!isTimeZone(timezone)) {
    throw fault('timezone', `unknown time zone ${JSON.stringify(timezone)}: write a name such as Europe/Berlin`);
  }
  try {
    const parsed = new Cron(expression, { timezone, mode: '5-or-6-parts', fixedTimeRule: 'no-wildcard' });
    return (after) => parsed.nextRun(new Date(after))?.getTime() ?? null;
  } catch (error) {
    throw fault('cron', (error as Error).message.replace(/^CronPattern: /, ''));
  }
}

/** The next `count` ticks after a time. Throws 400 when there is none, as for 30 February. */
export function ticksAfter(timetable: Timetable, after: number, count: number): number[] {
  const ticks: number[] = [];
  for (let tick = timetable(after); tick !== null && ticks.length < count; tick = timetable(tick)) ticks.push(tick);
  if (ticks.length === 0) throw fault('cron', 'this time never comes');
  return ticks;
}

function isTimeZone(name: string): boolean {
  // Intl takes offsets (+02:00) as well, which say nothing of summer.
  if (!/^[A-Za-z]/.test(name)) return false;
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

const fault = (path: string, message: string) => badRequest(`${path}: ${message}`, [{ path, message }]);
