import type { Attempt, TaskStatus } from '../db/read-tasks.ts';
import type { TakenTask } from '../tasks/take.ts';

type Told = {
  task_id: string;
  ak: string;
  endpoint: string;
  queue: string;
  level: number;
  attempt: number;
  created_at: number;
  expires_at: number;
  callback_url: string | null;
  instance: string | null;
  batch_id: string | null;
  trace_id: string | null;
  custom_id: string | null;
  metadata: string | null;
  data: string;
};

/** A task as the wire has it. Payloads are put in as the text they are. */
function taskJson(
  task: Told,
  more: {
    status: string;
    mode: string;
    running_time: number;
    completed_time: number;
    result: string | null;
    priority?: number;
    run_at?: number | undefined;
    attempts?: readonly Attempt[] | undefined;
  },
): string {
  const fields = JSON.stringify({
    task_id: task.task_id,
    ak: task.ak,
    endpoint: task.endpoint,
    queue: task.queue,
    level: task.level,
    status: more.status,
    attempt: task.attempt,
    start_time: task.created_at,
    running_time: more.running_time,
    expire_time: task.expires_at,
    completed_time: more.completed_time,
    callback_url: task.callback_url ?? '',
    response_mode: more.mode,
    instance_id: task.instance ?? undefined,
    batch_id: task.batch_id ?? undefined,
    // As in Bella's documents, a line is traced by its batch.
    trace_id: task.trace_id ?? task.batch_id ?? undefined,
    custom_id: task.custom_id ?? undefined,
    priority: more.priority,
    run_at: more.run_at,
    attempts: more.attempts?.map((one) => ({
      ...one,
      ended_at: one.ended_at ?? 0,
      refusals: one.refusals ?? undefined,
    })),
  });
  const metadata = task.metadata === null ? '' : `,"metadata":${task.metadata}`;
  const result = more.result === null ? '' : `,"result":${more.result}`;
  return `${fields.slice(0, -1)}${metadata},"data":${task.data}${result}}`;
}

/** A take's answer: lanes with tasks, in the order in which they were asked for. Tasks say `waiting` there, as in Bella's documents. */
export function takenJson(tasks: readonly TakenTask[], lanes: readonly string[]): string {
  const byLane = Map.groupBy(tasks, (task) => task.turn);
  const parts = [...byLane.keys()]
    .sort((a, b) => a - b)
    .map((turn) => {
      const rows = (byLane.get(turn) as TakenTask[]).map((task) =>
        taskJson(task, { status: 'waiting', mode: task.mode, running_time: 0, completed_time: 0, result: null }),
      );
      return `${JSON.stringify(lanes[turn - 1])}:[${rows.join(',')}]`;
    });
  return `{${parts.join(',')}}`;
}

/** A task as it is read; `attempts`, where one is read alone. */
export function statusJson(task: TaskStatus, attempts?: readonly Attempt[]): string {
  return taskJson(task, {
    status: task.status,
    mode: task.response_mode,
    running_time: task.taken_at ?? 0,
    completed_time: task.completed_at ?? 0,
    result: task.result,
    priority: task.priority,
    run_at: task.run_at ?? undefined,
    attempts,
  });
}
