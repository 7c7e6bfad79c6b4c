import { ApiError, isFinal } from '../errors.ts';
import { backoff, type Http, sleep } from '../http.ts';
import { cut } from './cut.ts';
import type { TaskAnswer } from './executor.ts';
import { jsonOf } from './json-text.ts';
import type { Log } from './log.ts';
import { undeliverable } from './too-large.ts';

type Pending = { taskId: string; text: string; settled: () => void };
type Verdict = { task_id: string; ok: boolean; message?: string };

/** Throws RangeError for a status that is none, TypeError for a body that has no JSON. */
export function answerText(task: { task_id: string; attempt: number }, answer: TaskAnswer): string {
  const { status_code, request_id, headers, body } = answer;
  if (!Number.isInteger(status_code) || status_code < 200 || status_code > 599) {
    throw new RangeError(`status_code: ${status_code} is not one from 200 to 599`);
  }
  const fields = JSON.stringify({ task_id: task.task_id, attempt: task.attempt, status_code, request_id, headers });
  return `${fields.slice(0, -1)},"body":${jsonOf(body)}}`;
}

/**
 * Hands in answers: at once when nothing is under way, else with all others that have come meanwhile. An answer is sent until the server has accepted
 * it, or refused it for good: the task has ended, or is somebody else's by now.
 */
export function createAnswers(http: Http, log: Log) {
  let waiting: Pending[] = [];
  let busy = false;
  /** Aborts when nobody waits for the rest any more. */
  const given = new AbortController();

  const send = async (pending: readonly Pending[]): Promise<void> => {
    for (let failed = 0; ; failed++) {
      try {
        const body = `{"results":[${pending.map(({ text }) => text).join(',')}]}`;
        const { data } = await http.json<{ data: Verdict[] }>('POST', '/v1/queue/complete', {
          body,
          signal: given.signal,
        });
        for (const [index, one] of pending.entries()) {
          const verdict = data[index];
          if (verdict && !verdict.ok) log(`${one.taskId}: the answer was refused: ${verdict.message}`);
          one.settled();
        }
        return;
      } catch (error) {
        if (given.signal.aborted) return;
        if (error instanceof ApiError && (error.status === 400 || error.status === 413))
          return sendApart(pending, error);
        if (isFinal(error)) {
          log(`${pending.length} answers were refused: ${(error as Error).message}`);
          for (const one of pending) one.settled();
          return;
        }
        if (failed === 0) log(`answers wait: ${(error as Error).message}`);
        await sleep(backoff(failed), given.signal).catch(() => undefined);
      }
    }
  };

  /** One of them is what the server can't take: the others go without it, and in its place goes why. */
  const sendApart = async (pending: readonly Pending[], error: ApiError): Promise<void> => {
    const half = Math.ceil(pending.length / 2);
    if (pending.length > 1) {
      await send(pending.slice(0, half));
      return send(pending.slice(half));
    }
    const one = pending[0] as Pending;
    log(`${one.taskId}: the server can't take the answer: ${error.message}`);
    // The body is not looked at: it may be what is wrong.
    const { task_id, attempt } = JSON.parse(`${one.text.slice(0, one.text.indexOf(',"status_code":'))}}`);
    const code = error.status === 413 ? 'answer_too_large' : 'answer_refused';
    const text = answerText(
      { task_id, attempt },
      undeliverable(`the worker's answer can't be delivered: ${error.message}`, code),
    );
    if (one.text === text) one.settled();
    else await send([{ ...one, text }]);
  };

  const drain = async () => {
    busy = true;
    while (waiting.length > 0 && !given.signal.aborted) {
      const count = cut(waiting);
      const now = waiting.slice(0, count);
      waiting = waiting.slice(count);
      await send(now);
    }
    busy = false;
  };

  return {
    /** `text` is an `answerText`. Resolves when the server has accepted or refused it. */
    add(taskId: string, text: string): Promise<void> {
      return new Promise((settled) => {
        waiting.push({ taskId, text, settled });
        if (!busy) void drain();
      });
    },
    /** Sends nothing more. */
    stop: () => given.abort(),
  };
}
export type Answers = ReturnType<typeof createAnswers>;
