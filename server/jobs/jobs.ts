import type { TaskList } from 'graphile-worker';
import type { Logger } from 'pino';
import type { AddressRule } from '../callbacks/address.ts';
import { createDelivery } from '../callbacks/deliver.ts';
import type { EndedTask } from '../db/end-tasks.ts';
import { createJobsPool } from '../db/jobs-pool.ts';
import type { Database } from '../db/open.ts';
import { repeat } from '../db/repeat.ts';
import { soon } from '../db/soon.ts';
import { dropOldPartitions, foldTallies, forgetWorkers, makePartitions } from '../db/upkeep.ts';
import { tidyAllFiles } from '../files/tidy-files.ts';
import { expireOverdue } from '../tasks/expire-overdue.ts';
import { tidyEvents } from '../tasks/tidy-events.ts';
import { startRetention } from './retention.ts';
import { keepRunning } from './runner.ts';
import { startVacuum } from './vacuum.ts';

const FOLD_MS = 5000;
/** What a killed server had claimed is found so soon after the claim has lapsed. */
const DELIVER_MS = 5000;
/** So long may go by without a server, or with one that can't make them, until tasks share the default partition. */
const DAYS_AHEAD = 7;
const CRONTAB = `
* * * * * expire
* * * * * tidy_events
* * * * * tidy_files
0 * * * * make_partitions
0 * * * * drop_old_partitions
*/5 * * * * forget_workers
`;

/** Starts graphile-worker with what happens in the background. Its jobs may run on any server, and again after a crash. */
export async function startJobs(deps: {
  db: Database;
  url: string;
  rule: AddressRule;
  eventRetentionSeconds: number;
  log: Logger;
  onExpired(ended: readonly EndedTask[]): void;
  /** Begins the work that there is for a batch. */
  workOnBatch(id: string): void;
}) {
  const { db, url, rule, eventRetentionSeconds, log, onExpired, workOnBatch } = deps;

  const delivery = createDelivery({
    db,
    rule,
    log,
    async lookAt(at) {
      const { addJob } = await starting;
      await addJob('deliver_callbacks', {}, { jobKey: 'deliver_callbacks_later', runAt: new Date(at) });
    },
  });
  const taskList: TaskList = {
    expire: () => expireOverdue(db, onExpired),
    make_partitions: () => makePartitions(db, DAYS_AHEAD),
    async drop_old_partitions() {
      while (await dropOldPartitions(db));
    },
    forget_workers: () => forgetWorkers(db),
    deliver_callbacks: delivery.look,
    tidy_events: () => tidyEvents(db, eventRetentionSeconds),
    tidy_files: () => tidyAllFiles(db),
    work_on_batch: (payload) => workOnBatch((payload as { id: string }).id),
  };

  // Each server looks by itself as well, so what is lost here is only late.
  const askForDelivery = soon(
    async () => (await starting).addJob('deliver_callbacks', {}, { jobKey: 'deliver_callbacks' }),
    (error) => log.warn({ err: error }, 'could not ask for callbacks to be delivered'),
  );

  const pgPool = createJobsPool(url, 2);
  const options = { pgPool, taskList, crontab: CRONTAB, concurrency: 2 };
  // Callbacks may have become due while nobody ran.
  const starting = keepRunning(options, log, askForDelivery);
  const runner = await starting;

  const folding = repeat(
    FOLD_MS,
    () => foldTallies(db),
    (error) => log.warn({ err: error }, 'could not add up the counts'),
  );
  const delivering = repeat(DELIVER_MS, delivery.look, (error) =>
    log.warn({ err: error }, 'could not look for callbacks'),
  );
  const retention = startRetention(db, log);
  const vacuum = startVacuum(db, log);

  return {
    /** There are callbacks to deliver. */
    onCallbacks: askForDelivery,
    /** There is work to do for these batches. What is lost here, the next look of a server finds. */
    onBatches(ids: readonly string[]): void {
      for (const id of ids) {
        starting
          .then(({ addJob }) => addJob('work_on_batch', { id }, { jobKey: `batch ${id}` }))
          .catch((error) =>
            log.warn({ err: error, batchId: id }, 'could not ask for work on a batch; it will be found'),
          );
      }
    },
    async stop(): Promise<void> {
      await folding.stop();
      await delivering.stop();
      await retention.stop();
      await vacuum.stop();
      await runner.stop();
      await delivery.stop();
      await pgPool.end();
    },
  };
}
