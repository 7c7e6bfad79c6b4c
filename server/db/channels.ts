import { sql } from 'slonik';
import type { Database } from './open.ts';

export type Channel = { channel_id: number; endpoint: string; model: string; queue: string; created_at: number };

/** Routes (endpoint, model) to a queue, in place of the route there was. */
export async function putChannel(db: Database, endpoint: string, model: string, queue: string): Promise<number> {
  const [made] = await db.call<{ put_channel: number }>(
    'put_channel',
    [endpoint, model, queue],
    ['text', 'text', 'text'],
  );
  return (made as { put_channel: number }).put_channel;
}

export function readChannels(db: Database) {
  return db.query<Channel>(sql.unsafe`
    select c.channel_id, c.endpoint, c.model, q.queue, c.created_at
    from tasklane.channel c join tasklane.queue q using (queue_id) order by c.channel_id`);
}

/** Whether there was such a channel. */
export async function deleteChannel(db: Database, channelId: number): Promise<boolean> {
  const gone = await db.query(
    sql.unsafe`delete from tasklane.channel where channel_id = ${channelId} returning channel_id`,
  );
  return gone.length > 0;
}
