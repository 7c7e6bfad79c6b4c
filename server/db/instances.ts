import type { Database } from './open.ts';

/** Says that this server lives; gives its number and how many others do. */
export async function beatInstance(db: Database, instance: string, starting: boolean) {
  const [row] = await db.call<{ instance_id: number; others: number }>(
    'beat_instance',
    [instance, starting],
    ['text', 'boolean'],
  );
  return row as { instance_id: number; others: number };
}

export async function leaveInstance(db: Database, instance: string): Promise<void> {
  await db.call('leave_instance', [instance], ['text']);
}

export async function notifyMany(db: Database, messages: readonly string[]): Promise<void> {
  await db.call('notify_many', [messages], ['text[]']);
}
