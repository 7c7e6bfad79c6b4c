import pg from 'pg';
import type { Json } from './server.ts';

/** Records what happens to tasks from psql, as the functions that make it happen do. Connects when it is first used. */
export function createRecorder(url: () => string) {
  let connecting: Promise<pg.Client> | undefined;
  const connect = async () => {
    const client = new pg.Client({ connectionString: url() });
    client.on('error', () => undefined); // the database may be dropped first
    await client.connect();
    return client;
  };
  const query = async (text: string, values: unknown[] = []): Promise<Json[]> => {
    connecting ??= connect();
    return (await (await connecting).query(text, values)).rows;
  };
  return {
    query,
    /** One event for each of the tasks, in one transaction. */
    async record(
      taskIds: string[],
      type = 'submitted',
      more: { attempt?: number; status?: string; data?: unknown } = {},
    ) {
      const { attempt = 0, status = 'waiting', data } = more;
      await query(
        `select tasklane.record_events($1, $2, array_agg(tasklane.parse_task_id(t)), array_agg($4::int), array_agg($5::text))
         from unnest($3::text[]) t`,
        [type, status, taskIds, attempt, data === undefined ? null : JSON.stringify(data)],
      );
    },
    recording: async (): Promise<boolean> => (await query('select tasklane.recording() as yes'))[0].yes,
    close: async () => (await connecting)?.end(),
  };
}
