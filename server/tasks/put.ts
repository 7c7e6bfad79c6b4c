import { createCoalescer } from '../db/coalesce.ts';
import type { Database } from '../db/open.ts';
import { type NewTask, type PutRow, type PutTask, putTasks } from '../db/put-tasks.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { type Bus, isCrowd } from './bus.ts';
import { createHandOver } from './hand-over.ts';
import type { Lanes } from './lanes.ts';
import type { Pollers } from './pollers.ts';

const REST_FROM = 8;
const REST_BELOW = 100;
const MAX_REST_MS = 10;

/**
 * For how many ms puts collect after a call of these groups that took `ms`. A call costs Postgres much the same whatever it carries, and from three servers on
 * these are many: four on two cores put 0.9 of what one does, instead of 0.84. Two gain nothing by a rest, and one loses a sixth. After a call of
 * few requests there is little to collect, and who puts many tasks by one request would only wait; one of many tasks carries what makes it pay.
 */
export function restAfter(groups: readonly (readonly unknown[])[], ms: number, otherServers: number): number {
  if (!isCrowd(otherServers) || groups.length < REST_FROM) return 0;
  return groups.reduce((sum, group) => sum + group.length, 0) < REST_BELOW ? Math.min(ms, MAX_REST_MS) : 0;
}

export function createPut(
  db: Database,
  bus: Bus,
  lanes: Lanes,
  pollers: Pollers,
  instance: string,
  keySeconds: number,
) {
  const promise = createHandOver(pollers, bus, instance);

  const submit = createCoalescer<readonly NewTask[], readonly PutTask[]>({
    maxItems: 1000,
    count: (group) => group.length,
    bytes: (group) => group.reduce((sum, task) => sum + task.data.length, 0),
    rest: (groups, ms) => restAfter(groups, ms, bus.others()),
    inHalves: () => !isCrowd(bus.others()),
    async run(groups) {
      const handOver = promise(groups.flat());
      let rows: readonly PutRow[] = [];
      try {
        rows = await putTasks(db, groups, bus.instanceId, keySeconds, handOver.takers, handOver.awaited);
      } finally {
        handOver.end(rows);
      }
      announcePut(rows);
      let from = 0;
      return groups.map((group) => {
        const own = rows.slice(from, from + group.length);
        from += group.length;
        return own;
      });
    },
  });

  /** Wakes those that wait for work in the lanes of tasks that were put. */
  const announcePut = (rows: readonly PutTask[]) =>
    lanes.waiting(rows.filter((row): row is PutTask & { lane: string } => row.state === 'waiting'));

  /** Puts a group of tasks, all or none, and resolves once they are committed. Throws TasklaneError for the first that is refused. */
  const put = async (group: readonly NewTask[]): Promise<readonly PutTask[]> => {
    const rows = await submit(group);
    const refused = rows.findIndex((row) => row.code !== null);
    if (refused >= 0) {
      const { code, message, lane, retry_after: retryAfter } = rows[refused] as PutTask;
      const place = group.length > 1 ? `tasks.${refused}: ` : '';
      throw new TasklaneError(Number(code?.slice(2)), `${place}${message}`, {
        ...(lane === null && { openai: { param: null, code: 'model_not_found' } }),
        headers: retryAfter === null ? {} : { 'Retry-After': String(retryAfter) },
      });
    }
    return rows;
  };

  return { put, announcePut };
}
