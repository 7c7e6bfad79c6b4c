import { sql } from 'slonik';
import type { Database } from './open.ts';

/** `created` in epoch seconds. */
export type Model = { id: string; created: number };

/** The endpoints at which each of the models has a route. */
export async function readEndpoints(db: Database, models: readonly string[]): Promise<Map<string, string[]>> {
  const rows = await db.query<{ model: string; endpoints: string[] }>(sql.unsafe`
    select m.model, array(
      select c.endpoint from tasklane.channel c where c.model = m.model
      union select q.endpoint from tasklane.queue q where q.queue = m.model and q.deleted_at is null
      order by 1) as endpoints
    from unnest(${sql.array([...models], 'text')}) m(model)`);
  return new Map(rows.map(({ model, endpoints }) => [model, endpoints]));
}

/** What a request may name as its model: channels' models and queues, by name; all, or the one named. */
export function readModels(db: Database, model: string | null = null) {
  return db.query<Model>(sql.unsafe`
    select m.id, floor(extract(epoch from min(m.created_at)))::float8 as created
    from (
      select c.model as id, c.created_at from tasklane.channel c
      union all
      select q.queue, q.created_at from tasklane.queue q where q.deleted_at is null
    ) m
    where ${model}::text is null or m.id = ${model}
    group by m.id order by m.id collate "C"`);
}
