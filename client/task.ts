import { TaskEndedError } from './errors.ts';
import type { CallOptions, Http } from './http.ts';
import type { Task, TaskStatus } from './types.ts';

const UNANSWERED: ReadonlySet<TaskStatus> = new Set(['dead', 'expired', 'cancelled']);
const ENDED: ReadonlySet<TaskStatus> = new Set([...UNANSWERED, 'succeeded', 'failed']);

/** Whether a task is in a state that never changes. */
export const hasEnded = ({ status }: Pick<Task, 'status'>): boolean => ENDED.has(status);

export const taskPath = (taskId: string, action = ''): string => `/v1/queue/${encodeURIComponent(taskId)}${action}`;

export const readTask = (http: Http, taskId: string, options: CallOptions = {}): Promise<Task> =>
  http.json('GET', taskPath(taskId), options);

/** Throws TaskEndedError for a task that has ended without an answer. */
export async function throwUnanswered(http: Http, taskId: string, options: CallOptions): Promise<void> {
  const { status, result } = await readTask(http, taskId, options);
  // A dead task may have the model server's last answer.
  const isAnswered = 'body' in Object(result);
  if (UNANSWERED.has(status) && !isAnswered) throw new TaskEndedError(taskId, status as TaskEndedError['status']);
}
