import pg from 'pg';
import { createDatabase } from '../support/database.ts';
import type { Driver, Event, Outcome, Taken } from './driver.ts';

// Everything as text: JSON must come back to the letter.
const types = { getTypeParser: () => (text: string) => text } as unknown as pg.CustomTypesConfig;

type Row = Record<string, string | null>;

/** Speaks the functions that a person calls in psql, with no server about. */
export async function sqlDriver(): Promise<Driver> {
  const database = await createDatabase();
  const client = new pg.Client({ connectionString: database.url, types });
  await client.connect();
  const rows = async (text: string, values: unknown[] = []) => (await client.query<Row>(text, values)).rows;
  const row = async (text: string, values: unknown[] = []) => (await rows(text, values))[0] as Row;
  const attempt = async (text: string, values: unknown[]): Promise<Outcome> => {
    try {
      await client.query(text, values);
      return 'ok';
    } catch (error) {
      return refusal(error);
    }
  };

  return {
    register: (queue, endpoint) => attempt('select tasklane.register_queue($1, $2)', [queue, endpoint]),

    async put({ queue, endpoint, level = 0, priority = 5, mode = 'callback', data = '{}' }) {
      const values = [queue ?? null, data, level, priority, endpoint, mode];
      try {
        return {
          id: (
            await row(
              'select tasklane.put($1, $2, level => $3, priority => $4, endpoint => $5, response_mode => $6) as id',
              values,
            )
          ).id as string,
        };
      } catch (error) {
        return refusal(error);
      }
    },

    async take(lanes, { size = 1, strategy = 'fifo' } = {}) {
      try {
        const taken = await rows('select * from tasklane.take($1::text[], $2, $3)', [lanes, size, strategy]);
        return taken.map(
          (task): Taken => ({
            id: task.task_id as string,
            attempt: Number(task.attempt),
            queue: task.queue as string,
            level: Number(task.level),
            mode: task.response_mode as string,
            data: task.data as string,
          }),
        );
      } catch (error) {
        return refusal(error);
      }
    },

    complete: (id, { status = 200, body = 'null', attempt: under = null as number | null }) =>
      attempt('select tasklane.complete($1, $2, $3, attempt => $4)', [id, status, body, under]),

    cancel: (id) => attempt('select tasklane.cancel($1)', [id]),

    emit: (id, name, data, more = {}) =>
      attempt('select tasklane.emit_event($1, $2, $3, $4, $5)', [
        id,
        name,
        data,
        more.eventId ?? null,
        more.attempt ?? null,
      ]),

    async events(id) {
      const found = await rows('select * from tasklane.read_events(array[tasklane.parse_task_id($1)], array[0])', [id]);
      return found.map(
        (event): Event => ({
          id: (event.event_id ?? event.seq) as string,
          name: event.name as string,
          data: event.data as string,
        }),
      );
    },

    channel: (endpoint, model, queue) => attempt('select tasklane.put_channel($1, $2, $3)', [endpoint, model, queue]),

    pause: (queue, paused) => attempt('select tasklane.set_queue($1, $2)', [queue, JSON.stringify({ paused })]),

    async task(id) {
      const [task] = await rows(
        'select status, attempt, data, result from tasklane.task_status where id = tasklane.parse_task_id($1)',
        [id],
      );
      return (
        task && {
          status: task.status as string,
          attempt: Number(task.attempt),
          data: task.data as string,
          result: task.result ?? undefined,
        }
      );
    },

    async stats(lane) {
      const [queue, level] = lane.split(':');
      const stats = await row('select * from tasklane.queue_stats where queue = $1 and level = $2', [queue, level]);
      return {
        waiting: Number(stats.waiting),
        running: Number(stats.running),
        put: Number(stats.total_put_cnt),
        ended: Number(stats.total_completed_cnt),
      };
    },

    async close() {
      await client.end();
      await database.drop();
    },
  };
}

function refusal(error: unknown): Exclude<Outcome, 'ok'> {
  const { code } = error as { code?: string };
  if (code === 'TL404') return 'unknown';
  if (code === 'TL409') return 'conflict';
  if (code === 'TL400') return 'invalid';
  throw error;
}
