import { hostname } from 'node:os';
import { setFlagsFromString } from 'node:v8';
import { createApp } from './app.ts';
import { adminKeyIn } from './auth/admin-key.ts';
import { createAuth } from './auth/auth.ts';
import { startBatches } from './batches/batches.ts';
import { createAddressRule } from './callbacks/address.ts';
import { type Config, loadConfig } from './config.ts';
import { startEmbeddedPostgres } from './db/embedded.ts';
import { createHealth } from './db/health.ts';
import { migrate } from './db/migrate.ts';
import { openDatabase } from './db/open.ts';
import { makePartitions } from './db/upkeep.ts';
import { within } from './db/within.ts';
import { openHttpServer } from './http/server.ts';
import { startJobs } from './jobs/jobs.ts';
import { createLogger } from './observe/logger.ts';
import { startSchedules } from './schedules/schedules.ts';
import { startTasks } from './tasks/tasks.ts';
import { attachEventBus } from './ws/event-bus.ts';

/** systemd and Kubernetes kill after 30 s. */
const STOP_MS = 29_000;
/** What is under way may be a call to a database that does not answer. */
const STEP_MS = 2000;
/** Clients may wait for so long, and Postgres may write for so long. */
const WAIT_MS = 26_000;

type Stop = { what: string; ms: number; stop(): Promise<void> | void };

async function main(): Promise<void> {
  // V8 watches while the server warms up which objects live on, and may make those of one kind in the old generation from then on. Seen with one
  // task or a hundred it guesses otherwise: 5 starts in 14 kept 10 KB of each task until a full collection, every two seconds; without it, none in 30.
  setFlagsFromString('--no-allocation-site-pretenuring');
  const config = loadConfig();
  const log = createLogger(config.TASKLANE_LOG_LEVEL);
  const stops: Stop[] = [];
  const stopAll = async () => {
    for (const { what, ms, stop } of stops.splice(0).reverse()) {
      try {
        await within(ms, Promise.resolve(stop()), 'it takes too long');
      } catch (error) {
        log.error({ err: error, what }, 'could not stop cleanly');
        process.exitCode = 1;
      }
    }
  };
  const stopping = new AbortController();
  const onSignal = (signal: NodeJS.Signals) => {
    if (stopping.signal.aborted) process.exit(1);
    log.info({ signal }, 'stopping');
    stopping.abort();
    setTimeout(() => {
      log.error('stopping took too long');
      process.exit(1);
    }, STOP_MS);
    void stopAll().then(() => process.exit());
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);

  try {
    await start(config, log, stops, stopping.signal);
  } catch (error) {
    await stopAll();
    throw error;
  }
}

async function start(
  config: Config,
  log: ReturnType<typeof createLogger>,
  stops: Stop[],
  stopping: AbortSignal,
): Promise<void> {
  let url = config.DATABASE_URL;
  let adminKey = config.TASKLANE_ADMIN_KEY;
  if (url === undefined) {
    const dataDir = config.TASKLANE_DATA_DIR;
    const embedded = await startEmbeddedPostgres({ dataDir, owner: `http://${config.HOST}:${config.PORT}`, log });
    stops.push({ what: 'the embedded Postgres', ms: WAIT_MS, stop: embedded.stop });
    url = embedded.url;
    if (adminKey === undefined) {
      const made = await adminKeyIn(dataDir);
      adminKey = made.key;
      process.stdout.write(`admin key: ${made.path}\n`);
    }
  } else if (adminKey === undefined) {
    log.warn('TASKLANE_ADMIN_KEY is not set: only keys that are in the database already can be used');
  }
  // A pooler that keeps no sessions loses what belongs to one: LISTEN, locks that outlast a transaction, prepared statements.
  const directUrl = config.TASKLANE_DIRECT_URL ?? url;
  const applied = await migrate(directUrl);
  if (applied.length > 0) log.info({ applied }, 'brought the database up to date');

  const prepare = config.TASKLANE_DIRECT_URL === undefined;
  const db = await openDatabase(url, {
    maxConnections: config.TASKLANE_MAX_CONNECTIONS,
    limitMs: config.TASKLANE_DATABASE_SECONDS * 1000,
    prepare,
  });
  stops.push({ what: 'the connections', ms: STEP_MS, stop: db.close });
  // A put finds the default partition where a day's own is missing, so a busy database is no reason not to start.
  await makePartitions(db, 1).catch((error) =>
    log.warn({ err: error }, 'could not make partitions ahead; trying again within the hour'),
  );

  const http = await openHttpServer(config.HOST, config.PORT);
  const wildcard = config.HOST === '0.0.0.0' || config.HOST === '::';
  const host = config.HOST.includes(':') ? `[${config.HOST}]` : config.HOST;
  const instance = config.TASKLANE_INSTANCE ?? `${wildcard ? hostname() : host}:${http.port}`;

  const auth = await createAuth(db, adminKey);
  let onCallbacks: () => void = () => undefined;
  let onBatches: (ids: readonly string[]) => void = () => undefined;
  let onLines: () => void = () => undefined;
  let onTopUp: (laneIds: readonly number[]) => void = () => undefined;
  let onSchedules: () => void = () => undefined;
  let onOpenBatches: () => void = () => undefined;
  const tasks = await startTasks({
    db,
    url: directUrl,
    instance,
    log,
    keySeconds: config.TASKLANE_IDEMPOTENCY_SECONDS,
    eventRetentionSeconds: config.TASKLANE_EVENT_RETENTION_SECONDS,
    onCallbacks: () => onCallbacks(),
    onLines: () => onLines(),
    onTopUp: (laneIds) => onTopUp(laneIds),
    onKeysChanged: auth.forget,
    onSchedules: () => onSchedules(),
    onOpenBatches: () => onOpenBatches(),
  });
  stops.push({ what: 'the tasks', ms: STEP_MS, stop: tasks.stop });
  const maxBodyBytes = config.TASKLANE_MAX_BODY_BYTES;
  const batches = startBatches({
    db,
    log,
    maxLines: config.TASKLANE_BATCH_MAX_LINES,
    maxLineBytes: maxBodyBytes,
    stopping,
    waiting: tasks.lanes.waiting,
    freed: tasks.lanes.freed,
    onCallbacks: () => onCallbacks(),
    onWork: (ids) => onBatches(ids),
  });
  stops.push({ what: 'the batches', ms: STEP_MS, stop: batches.stop });
  onLines = batches.onEnded;
  onOpenBatches = batches.lookAround;
  onTopUp = batches.onTaken;
  const rule = createAddressRule({
    allow: config.TASKLANE_CALLBACK_ALLOW,
    allowLoopback: config.DATABASE_URL === undefined,
  });
  const jobs = await startJobs({
    db,
    url: directUrl,
    rule,
    eventRetentionSeconds: config.TASKLANE_EVENT_RETENTION_SECONDS,
    log,
    onExpired: (ended) => tasks.end.announceUnanswered(ended, 'expired'),
    workOnBatch: batches.workOn,
  });
  stops.push({ what: 'the jobs', ms: 2 * STEP_MS, stop: jobs.stop });
  onCallbacks = jobs.onCallbacks;
  onBatches = jobs.onBatches;
  const schedules = startSchedules({ db, log, announcePut: tasks.announcePut });
  onSchedules = schedules.onDue;

  const fileLimits = {
    batchBytes: config.TASKLANE_BATCH_MAX_BYTES,
    fileBytes: config.TASKLANE_FILE_MAX_BYTES,
    quotaBytes: config.TASKLANE_FILE_QUOTA_BYTES ?? null,
    lineBytes: maxBodyBytes,
  };
  const keySeconds = config.TASKLANE_IDEMPOTENCY_SECONDS;
  const health = createHealth({ db, url: directUrl, instance, stopping });
  const deps = {
    db,
    health,
    tasks,
    batches,
    keySeconds,
    onBatches,
    schedules,
    auth,
    rule,
    log,
    instance,
    maxBodyBytes,
    fileLimits,
    onCallbacks,
    stopping,
  };
  const app = createApp(deps);
  const bus = attachEventBus(http.server, { auth, tasks, log, maxBodyBytes });
  http.serve(app);
  stops.push({
    what: 'the HTTP server',
    ms: WAIT_MS,
    async stop() {
      bus.stop();
      await http.drain();
    },
  });
  // The old generation is collected when it has grown by half, with all the buffers that hang on it: a batch of 100 MB took 150 MB more than
  // idle without this, and 60 MB with it, in the same time. Not before: while the server starts, it only grows.
  setFlagsFromString('--heap-growing-percent=50');
  process.stdout.write(`tasklane listening on http://${host}:${http.port}\n`);
}

main().catch((error: Error) => {
  process.stderr.write(`tasklane: ${error.message}\n`);
  process.exit(1);
});
