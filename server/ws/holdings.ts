import { invalid, notFound, TasklaneError } from '../protocol/errors.ts';
import { holdEvent } from '../protocol/events.ts';
import { parseTaskId } from '../protocol/ids.ts';
import { parseJson } from '../protocol/json.ts';
import type { Verdict } from '../tasks/bus-events.ts';
import type { Tasks } from '../tasks/tasks.ts';

const MAX_HELD = 10_000;

/** Whether a frame says what its worker holds. The word is looked for first: an event need not be parsed twice. */
export function isHoldFrame(text: string): boolean {
  return /"task-(hold|begin)-event"/.test(text);
}

/** The tasks that the worker on a socket holds and has not begun, by its own word. They go back at once when the socket closes. */
export function createHoldings(tasks: Pick<Tasks, 'giveBack'>, refusal: TasklaneError | undefined) {
  const held = new Map<string, { id: string; attempt: number }>();

  return {
    /** Applies a hold or a begin, and gives its verdict. */
    apply(text: string): Verdict {
      let taskId = '';
      try {
        const value = parseJson(text) as { payload?: { taskId?: unknown } } | null;
        if (typeof value?.payload?.taskId === 'string') taskId = value.payload.taskId;
        if (refusal) throw refusal;
        const parsed = holdEvent.safeParse(value);
        if (!parsed.success) throw invalid('the event', parsed.error);
        const { name, payload } = parsed.data;
        const id = parseTaskId(taskId);
        if (id === undefined) throw notFound(`unknown task ${taskId}`);
        if (name === 'task-begin-event') held.delete(taskId);
        else if (held.size >= MAX_HELD) throw new TasklaneError(429, `a socket holds at most ${MAX_HELD} tasks`);
        else held.set(taskId, { id, attempt: payload.attempt });
        return { ok: true, taskId };
      } catch (error) {
        return { ok: false, taskId, message: (error as Error).message };
      }
    },

    /** The worker reported on a task, so it has begun. */
    begun(taskId: string): void {
      held.delete(taskId);
    },

    /** The socket has closed, and everything that came through it was applied. */
    giveBack(): void {
      if (held.size > 0) void tasks.giveBack([...held.values()]);
      held.clear();
    },
  };
}
