import type { Database } from './open.ts';

type Owned = { id: string; tenantId: number | null };

/** `refusal`: null when done, `unknown`, or the state that forbids it. `lane` and `rank`: where it waits, if it does. */
export type Moved = { id: string; refusal: string | null; lane: string | null; rank: number | null };

/** Changes priorities of tasks that wait or are deferred. Gives a row a task, in the order given. */
export function setPriorities(db: Database, tasks: readonly (Owned & { priority: number })[]) {
  return db.call<Moved>(
    'set_priorities',
    [tasks.map((task) => task.id), tasks.map((task) => task.priority), tasks.map((task) => task.tenantId)],
    ['bigint[]', 'int[]', 'int[]'],
  );
}

/** Gives dead tasks a new life. Gives a row a task, in the order given. */
export function replayTasks(db: Database, tasks: readonly Owned[]) {
  return db.call<Moved>(
    'replay_tasks',
    [tasks.map((task) => task.id), tasks.map((task) => task.tenantId)],
    ['bigint[]', 'int[]'],
  );
}

/** The oldest dead tasks, at most `limit`, of a tenant and a queue where given. */
export async function findDead(db: Database, tenantId: number | null, queue: string, limit: number) {
  const [found] = await db.call<{ dead_tasks: string[] }>(
    'dead_tasks',
    [tenantId, queue, limit],
    ['int', 'text', 'int'],
  );
  return found?.dead_tasks ?? [];
}

/** Removes dead tasks, at most `limit`; gives how many. */
export async function purgeDead(db: Database, tenantId: number | null, queue: string, limit: number) {
  const [purged] = await db.call<{ purge_dead: number }>(
    'purge_dead',
    [tenantId, queue, limit],
    ['int', 'text', 'int'],
  );
  return purged?.purge_dead ?? 0;
}
