import type { Database } from './open.ts';

/**
 * Says that this server lives; gives its number and how many others do. `answerChannel`: where it hears of answers to its clients, if it starts just
 * now; else null.
 */
export async function beatInstance(db: Database, instance: string, answerChannel: string | null) {
  const [row] = await db.call<{ instance_id: number; others: number }>(
    'beat_instance',
    [instance, answerChannel],
    ['text', 'text'],
  );
  return row as { instance_id: number; others: number };
}

export async function leaveInstance(db: Database, instance: string): Promise<void> {
  await db.call('leave_instance', [instance], ['text']);
}

export async function notifyMany(db: Database, messages: readonly string[]): Promise<void> {
  await db.call('notify_many', [messages], ['text[]']);
}
