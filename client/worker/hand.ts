import { ApiError, isFinal } from '../errors.ts';
import { backoff, type Http, sleep } from '../http.ts';
import { taskPath } from '../task.ts';
import type { Task } from '../types.ts';
import { type Answers, answerText } from './answers.ts';
import { type RetryLater, TaskAborted, type TaskAnswer, type TaskWrapper } from './executor.ts';
import type { Leases } from './leases.ts';
import type { Log } from './log.ts';
import type { Progress } from './progress.ts';
import { dataTextOf, maxAnswerBytesOf } from './taken.ts';

const MAX_REASON = 512;
const MAX_TIMER_MS = 2 ** 31 - 1;

/** A task in the worker's hands, from the take until the server knows how it went. */
export type Hand = TaskWrapper & {
  /** Whether the executor has been given it. */
  begun: boolean;
  /** Resolves when the worker is through with it. */
  readonly ended: Promise<void>;
  /** Resolves when the server knows: answered, given back, or not ours any more. */
  readonly over: Promise<void>;
  /** Takes it from whoever works on it. */
  abort(why: TaskAborted['why']): void;
  /** Gives it back as if it had not been taken. */
  giveBack(): void;
};

/** What hands have in common. */
export type Desk = { http: Http; answers: Answers; progress: Progress; leases: Leases; log: Log; givenUp: AbortSignal };

/** `ahead`: milliseconds by which the server's clock is ahead of ours. */
export function takeInHand(task: Task, desk: Desk, ahead: number): Hand {
  const { answers, progress, leases, log } = desk;
  const controller = new AbortController();
  let ended = false;
  let told = Promise.resolve();
  let emitted = 0;
  let tellEnded: () => void = () => undefined;
  const whenEnded = new Promise<void>((resolve) => {
    tellEnded = resolve;
  });
  let tellOver: () => void = () => undefined;
  const over = new Promise<void>((resolve) => {
    tellOver = resolve;
  });

  const end = async (say: () => Promise<void>) => {
    if (ended) return;
    ended = true;
    tellEnded();
    clearTimeout(deadline);
    // Events that came before the end are read before it.
    await told;
    await say();
    letGo();
    tellOver();
  };
  const abort = (why: TaskAborted['why']) => {
    controller.abort(new TaskAborted(why));
    if (why !== 'stopping') void end(async () => undefined);
  };
  const letGo = leases.hold(task, abort);
  const left = task.expire_time - (Date.now() + ahead);
  const deadline = setTimeout(() => abort('deadline'), Math.min(Math.max(left, 0), MAX_TIMER_MS));
  deadline.unref();

  const release = async (how: RetryLater) => {
    // What is refused for what it says goes without that: first without the answer, then bare.
    const wordings = [how, { ...how, answer: undefined }, { begun: how.begun }];
    for (let failed = 0; !desk.givenUp.aborted; ) {
      try {
        const body = releaseText(task, wordings[0] as RetryLater);
        await desk.http.json('POST', taskPath(task.task_id, '/release'), { body, signal: desk.givenUp });
        return;
      } catch (error) {
        if (desk.givenUp.aborted || isOver(error)) return;
        const { message } = error as Error;
        if (isFinal(error)) {
          wordings.shift();
          if (wordings.length === 0) return log(`${task.task_id} can't be given back: ${message}`);
          log(`${task.task_id} goes back without what was refused: ${message}`);
          continue;
        }
        if (failed === 0) log(`${task.task_id} waits to be given back: ${message}`);
        await sleep(backoff(failed++), desk.givenUp).catch(() => undefined);
      }
    }
  };

  return {
    task,
    signal: controller.signal,
    begun: false,
    ended: whenEnded,
    over,
    abort,
    getPayload: () => task.data,
    getPayloadText: () => dataTextOf(task),
    maxAnswerBytes: maxAnswerBytesOf(task),
    emitProgress(eventName, eventData, eventId) {
      if (ended || task.response_mode !== 'streaming') return;
      const { task_id: taskId, attempt } = task;
      const event = { taskId, attempt, eventName, eventData, eventId: eventId ?? `${attempt}-${++emitted}` };
      const before = told;
      told = progress.add(event).then(async ({ ok }) => {
        await before;
        if (!ok) leases.check();
      });
    },
    markComplete(answer: TaskAnswer) {
      const text = answerText(task, answer);
      void end(() => answers.add(task.task_id, text));
    },
    markRetryLater(how: RetryLater = {}) {
      void end(() => release(how));
    },
    giveBack() {
      void end(() => release({ begun: false }));
    },
  };
}

/** It has ended, or is somebody else's; or an earlier try was heard after all. */
const isOver = (error: unknown) => error instanceof ApiError && (error.status === 404 || error.status === 409);

function releaseText(task: Task, { delay_seconds, reason, begun = true, answer }: RetryLater): string {
  const { attempt } = task;
  const fields = JSON.stringify({ attempt, delay_seconds, reason: reason && storable(reason), begun });
  return answer === undefined ? fields : `${fields.slice(0, -1)},"answer":${answerText(task, answer)}}`;
}

/** What a model server says may be anything. */
const storable = (text: string) => text.replaceAll('\0', '\ufffd').toWellFormed().slice(0, MAX_REASON);
