import { Logger, makeWorkerUtils, type RunnerOptions, run } from 'graphile-worker';
import pg from 'pg';
import { DATA } from '../bench.ts';
import { chunks, type Peer, repeatedly } from './peer.ts';

const CONCURRENCY = 24; // its own performance test's
/** Its fastest: jobs fetched 500 at a time, and completed together. */
const FAST = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const silent = new Logger(() => () => undefined);

export async function open(connectionString: string): Promise<Peer> {
  const pgPool = new pg.Pool({ connectionString, max: CONCURRENCY + 2 });
  // It warns of pools without these.
  pgPool.on('error', () => undefined);
  pgPool.on('connect', (one) => one.on('error', () => undefined));
  const utils = await makeWorkerUtils({ pgPool, logger: silent });
  await utils.migrate();

  /** How many seconds it took. */
  const addBefore = async (count: number): Promise<number> => {
    const started = performance.now();
    for (const size of chunks(count, 1000)) {
      await utils.addJobs(Array.from({ length: size }, () => ({ identifier: 'bench', payload: DATA })));
    }
    return (performance.now() - started) / 1000;
  };

  /** How many seconds it took, from the first job begun to the last written down as done. */
  const workOff = async (
    count: number,
    preset: NonNullable<RunnerOptions['preset']>['worker'] = {},
  ): Promise<number> => {
    let left = count;
    let started: number | undefined;
    let ended: () => void = () => undefined;
    const over = new Promise<void>((resolve) => {
      ended = resolve;
    });
    const runner = await run({
      pgPool,
      noHandleSignals: true,
      preset: { worker: { concurrentJobs: CONCURRENCY, ...preset } },
      logger: silent,
      taskList: {
        async bench() {
          started ??= performance.now();
          if (--left === 0) ended();
        },
      },
    });
    await over;
    // The last ones are still to be written down as done.
    for (let written = false; !written; ) {
      const { rows } = await pgPool.query('select exists (select from graphile_worker._private_jobs) as left');
      written = !rows[0].left;
    }
    const seconds = (performance.now() - (started as unknown as number)) / 1000;
    await runner.stop();
    return seconds;
  };

  return {
    async add(seconds, inFlight) {
      const rate = await repeatedly(seconds, inFlight, () => utils.addJob('bench', DATA));
      await pgPool.query('truncate graphile_worker._private_jobs');
      return rate;
    },
    async drain(count) {
      await addBefore(count);
      return count / (await workOff(count));
    },
    async drainFast(count) {
      await addBefore(count);
      return count / (await workOff(count, FAST));
    },
    async wholeFast(count) {
      return count / ((await addBefore(count)) + (await workOff(count, FAST)));
    },
    async close() {
      await utils.release();
      await pgPool.end();
    },
  };
}
