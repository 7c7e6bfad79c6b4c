import type { Put, Result } from '../types.ts';
import { answerText, chunkText } from './answer-text.ts';
import type { Context } from './context.ts';
import { Failure } from './failure.ts';

/** How the answer is to come. */
export type Delivery = { wait?: true; stream?: true };

const LONGEST_BLOCKING_SECONDS = 600;

/** Puts a task, and prints its id, its answer, or its answer as it comes. Throws Failure for an answer that is none of success. */
export async function deliver(
  context: Context,
  put: Put,
  { wait, stream }: Delivery,
  about: { type: string; model?: string },
): Promise<void> {
  const { out, signal } = context;
  if (stream) return streamAnswer(context, put);
  if (wait) return printAnswer(context, await answerOf(context, put));
  const taskId = await context.client.put(put, { signal });
  await out.either({ task_id: taskId, status: 'submitted', ...about }, () => out.print(taskId));
}

type Answered = Pick<Result, 'status_code' | 'body'> & { task_id: string };

/** Of a task that has no more time than a blocking one may have; else of one that goes on without us. */
async function answerOf(context: Context, put: Put): Promise<Answered> {
  const { out, signal } = context;
  const client = await context.patient();
  const later = put.run_at !== undefined || put.delay_seconds !== undefined;
  if (!later && (put.timeout ?? 0) <= LONGEST_BLOCKING_SECONDS) return client.putAndWait(put, { signal });
  const taskId = await client.put(put, { signal });
  out.note(taskId);
  const task = await client.wait(taskId, { signal }).catch((error) => {
    if (signal.aborted) out.note(`the task goes on: tasklane status ${taskId}`);
    throw error;
  });
  if (task.result && 'body' in task.result)
    return { task_id: taskId, status_code: task.result.status_code, body: task.result.body };
  const { TaskEndedError } = await import('../errors.ts');
  throw new TaskEndedError(taskId, task.status as 'dead' | 'expired' | 'cancelled');
}

function printAnswer({ out }: Context, { task_id, status_code, body }: Answered): void {
  const good = status_code >= 200 && status_code < 300;
  if (out.json) out.data({ task_id, status_code, body });
  else if (good) out.print(answerText(body));
  if (!good) throw new Failure(`the worker answered ${status_code}: ${answerText(body)} (${task_id})`);
}

async function streamAnswer(context: Context, put: Put): Promise<void> {
  const { out, signal } = context;
  const client = await context.patient();
  const stream = client.stream(put, { signal });
  let written = '';
  for await (const event of stream) {
    if (event.type === 'completion') {
      const answer = { task_id: await stream.taskId, ...event.result };
      if (written !== '' && !written.endsWith('\n')) out.write('\n');
      if (out.json) out.line({ type: 'completion', ...answer });
      const good = answer.status_code < 300;
      if (!out.json && good && written === '') out.print(answerText(answer.body));
      if (!good)
        throw new Failure(`the worker answered ${answer.status_code}: ${answerText(answer.body)} (${answer.task_id})`);
    } else if (out.json) out.line(event);
    else {
      const text = chunkText(event.data) ?? `${JSON.stringify(event.data)}\n`;
      out.write(text);
      written = text === '' ? written : text;
    }
  }
}
