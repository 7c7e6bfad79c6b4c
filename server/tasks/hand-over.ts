import type { NewTask, PutRow, Taker } from '../db/put-tasks.ts';
import type { Bus } from './bus.ts';
import type { Poller, Pollers } from './pollers.ts';
import type { TakenTask } from './take.ts';

/** Of how many models the lane is known that their tasks went to last. */
const MAX_MODELS = 1000;

/**
 * Tasks go to the takes that sleep in their lanes with the commit that puts them: no wake-up, no take, and one commit less between a client and an
 * idle worker.
 */
export function createHandOver(pollers: Pollers, bus: Bus, instance: string) {
  /** Where tasks went that name no queue. A guess, which the database checks. */
  const lanes = new Map<string, string>();
  const modelOf = (task: NewTask) => `${task.level} ${task.endpoint} ${task.model}`;

  /**
   * Promises tasks that are about to be put, the most urgent first. `awaited`: lanes of the others in which takes sleep on other servers, if those are to be
   * told with the commit. `end` must be called with what became of the tasks: no rows when nothing was put.
   */
  return (tasks: readonly NewTask[]) => {
    const sleepers: (Poller | undefined)[] = [];
    const takers: (Taker | undefined)[] = tasks.map(() => undefined);
    const awaited = new Set<string>();
    const tells = bus.tellsWithCommit(tasks.length);
    const inTurn = [...tasks.entries()].sort(([, a], [, b]) => b.priority - a.priority);
    for (const [index, task] of inTurn) {
      const lane = task.queue === null ? lanes.get(modelOf(task)) : `${task.queue}:${task.level}`;
      if (lane === undefined) continue;
      const sleeper = pollers.promise(lane);
      if (!sleeper) {
        if (tells && bus.isAwaited(lane)) awaited.add(lane);
        continue;
      }
      const { worker, leaseSeconds, maxAttempts } = sleeper.request;
      sleepers[index] = sleeper;
      takers[index] = { lane, worker, leaseSeconds, maxAttempts };
    }

    return {
      takers,
      awaited: [...awaited],
      end(rows: readonly PutRow[]): void {
        const handed = new Map<Poller, TakenTask[]>();
        for (const sleeper of sleepers) if (sleeper) handed.set(sleeper, []);
        for (const [index, task] of inTurn) {
          const [row, sleeper] = [rows[index], sleepers[index]];
          if (row && row.lane !== null && task.queue === null) {
            if (lanes.size >= MAX_MODELS) lanes.clear();
            lanes.set(modelOf(task), row.lane);
          }
          if (row?.state === 'running' && sleeper) handed.get(sleeper)?.push(takenTask(task, row, sleeper, instance));
        }
        for (const [sleeper, taken] of handed) pollers.hand(sleeper, taken);
      },
    };
  };
}

/** As take_tasks would have given it. */
function takenTask(task: NewTask, row: PutRow, sleeper: Poller, instance: string): TakenTask {
  const { metadata } = JSON.parse(task.options ?? '{}') as { metadata?: object };
  const lane = row.lane as string;
  return {
    request: 1,
    turn: sleeper.request.lanes.indexOf(lane) + 1,
    id: row.id,
    rank: row.rank,
    task_id: row.task_id,
    attempt: 1,
    ak: row.ak as string,
    instance: task.mode === 'callback' ? null : instance,
    endpoint: row.endpoint as string,
    queue: lane.slice(0, lane.lastIndexOf(':')),
    level: task.level,
    mode: task.mode,
    created_at: row.created_at as number,
    expires_at: row.expires_at as number,
    batch_id: null,
    trace_id: task.traceId,
    custom_id: null,
    callback_url: task.callbackUrl,
    metadata: metadata === undefined ? null : JSON.stringify(metadata),
    tops_up: null,
    headers: task.headers,
    data: task.data,
    more: false,
  };
}
