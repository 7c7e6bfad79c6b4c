import { elementTexts, memberTexts, withMembers } from '../../server/protocol/json-text.ts';
import type { Task } from '../types.ts';

/** What a server takes for an answer unless it says otherwise. */
const USUAL_MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** Of that, for what goes around the answer's body. */
const ENVELOPE_BYTES = 8192;

/** What came with a task. */
type Beside = { dataText: string; maxAnswerBytes: number };
const besides = new WeakMap<Task, Beside>();

/**
 * The tasks in a take's answer, in the order of the lanes. Their `data` stays text until somebody looks at it: most executors only pass it on, to the letter.
 */
export function tasksIn(text: string, lanes: readonly string[], maxAnswerBytes = USUAL_MAX_ANSWER_BYTES): Task[] {
  const byLane = memberTexts(text);
  const texts = lanes.flatMap((lane) => elementTexts(byLane.get(lane) ?? '[]'));
  return texts.map((one) => {
    const part = memberTexts(one).get('data') as string;
    // A slice would keep all of a take's tasks in memory for as long as the slowest of them takes.
    const dataText = texts.length === 1 ? part : Buffer.from(part).toString();
    const task = JSON.parse(withMembers(one, { data: 'null' })) as Task;
    let data: Task['data'] | undefined;
    Object.defineProperty(task, 'data', {
      enumerable: true,
      get() {
        data ??= JSON.parse(dataText) as Task['data'];
        return data;
      },
    });
    besides.set(task, { dataText, maxAnswerBytes });
    return task;
  });
}

/** A task's `data` as it was put. */
export const dataTextOf = (task: Task): string => besides.get(task)?.dataText ?? JSON.stringify(task.data);

/** The largest body that the server takes for the task's answer. */
export const maxAnswerBytesOf = (task: Task): number =>
  Math.max((besides.get(task)?.maxAnswerBytes ?? USUAL_MAX_ANSWER_BYTES) - ENVELOPE_BYTES, 0);
