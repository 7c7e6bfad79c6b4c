import { setTimeout as sleep } from 'node:timers/promises';
import { Logger as JobLogger, type Runner, type RunnerOptions, run } from 'graphile-worker';
import type { Logger } from 'pino';
import { toTasklaneError } from '../db/errors.ts';

const AGAIN_MS = 1000;
/** New jobs are told at once; polled for are those of later, as callbacks that are tried again. Every 2 s, as usual, was a tenth of what an idle server costs. */
const POLL_MS = 5000;

/**
 * Runs graphile-worker for as long as the server runs. A runner ends when it cannot tell the database how a job went: another takes its
 * place once the database is there. `onStart` is called for each; between two, `addJob` rejects. Rejects when the first does not start.
 */
export async function keepRunning(
  options: Pick<RunnerOptions, 'pgPool' | 'taskList' | 'crontab' | 'concurrency'>,
  log: Logger,
  onStart: () => void,
): Promise<{ addJob: Runner['addJob']; stop(): Promise<void> }> {
  const stopping = new AbortController();
  const { signal } = stopping;
  const start = () =>
    run({
      ...options,
      noHandleSignals: true,
      // Without these, a lost connection rejects a promise that graphile-worker leaves unhandled, which ends the process.
      preset: { worker: { pollInterval: POLL_MS, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
      logger: new JobLogger(
        () => (level, message, meta) =>
          log[level === 'warning' ? 'warn' : level === 'info' ? 'debug' : level](
            { jobs: true, ...(meta?.error instanceof Error && { err: toTasklaneError(meta.error) }) },
            message,
          ),
      ),
    });

  let runner = await start();
  const startAgain = async () => {
    while (!signal.aborted) {
      try {
        runner = await start();
        return;
      } catch (error) {
        log.warn({ err: toTasklaneError(error) }, 'could not start the background jobs; trying again');
        await sleep(AGAIN_MS, undefined, { signal }).catch(() => undefined);
      }
    }
  };
  const keep = async () => {
    while (!signal.aborted) {
      onStart();
      await runner.promise.catch((error) => log.warn({ err: toTasklaneError(error) }, 'the background jobs stopped'));
      await startAgain();
    }
    await runner.stop().catch(() => undefined);
  };
  const kept = keep();

  return {
    addJob: (...job) => runner.addJob(...job),
    async stop(): Promise<void> {
      stopping.abort();
      await runner.stop().catch(() => undefined);
      await kept;
    },
  };
}
