import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import OpenAI from 'openai';
import { type Client, createClient, type Role } from '../../client/client.ts';
import { runBatch } from './batch.ts';
import { createChecks } from './checks.ts';
import {
  askBlocking,
  askByCallback,
  askInTurn,
  askOldestFirst,
  askOneAtATime,
  askStreaming,
  type Demo,
} from './demo.ts';
import { type Ask, readInput } from './input.ts';
import { ENDPOINT, LIVE_FIRST, QUEUES } from './lanes.ts';
import { showWhatNext } from './next.ts';
import { Plain, startServer, startWorker } from './processes.ts';
import { QUESTIONS } from './reader.ts';
import { startReceiver } from './receiver.ts';
import { milliseconds, show } from './show.ts';

const USAGE = `sh scripts/quickstart.sh [--exit] [--lines N]

Starts Tasklane on a Postgres of its own, runs a batch over this project's documents with OpenAI's package, and leaves it running
until Ctrl-C.

  --exit      stop everything at the end; status 0 only if every answer came back right
  --lines N   how many requests the batch has (300; 20 for a real model)

PORT (8080), HOST and TASKLANE_DATA_DIR (.tasklane) as for the server. With OPENAI_BASE_URL set, the worker asks that model
server (OPENAI_API_KEY, OPENAI_MODEL) instead of answering itself.`;

const ROOT = join(import.meta.dirname, '..', '..');
const TENANT = 'quickstart';
/** How long all answers together may take. */
const PATIENCE_MS = { demo: 120_000, realModel: 1_800_000 };

const { PORT, HOST, TASKLANE_DATA_DIR, TASKLANE_ADMIN_KEY, OPENAI_BASE_URL, DATABASE_URL } = process.env;
const realModel = Boolean(OPENAI_BASE_URL);
const stops: (() => Promise<void> | void)[] = [];
const interrupted = new AbortController();

async function main(): Promise<number> {
  const options = readOptions();
  const dataDir = TASKLANE_DATA_DIR || '.tasklane';
  const started = performance.now();
  const { asks, sections, documents } = readInput(ROOT);

  show.heading('Tasklane', 'the Batch API for your own models, on nothing but Postgres');
  if (DATABASE_URL) show.line('note', 'DATABASE_URL is left alone: the quickstart uses a Postgres of its own');
  const port = Number(PORT || 8080);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new Plain(`PORT is ${PORT}, and no port`);
  const server = await startServer({ root: ROOT, dataDir, host: HOST || '127.0.0.1', port });
  stops.unshift(server.stop);
  interrupted.signal.throwIfAborted();
  show.line('server', `${server.url}, its Postgres in ${dataDir}, ready after ${milliseconds(started)}`);
  const adminKey = TASKLANE_ADMIN_KEY || readFileSync(resolve(ROOT, dataDir, 'admin.key'), 'utf8').trim();
  const admin = createClient({ baseUrl: server.url, apiKey: adminKey });
  const clientKey = await makeKey(admin, 'client');
  const client = createClient({ baseUrl: server.url, apiKey: clientKey });
  const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: clientKey });
  const workerKey = await makeKey(admin, 'worker');
  for (const queue of QUEUES) await admin.queues.register(queue, ENDPOINT);
  show.line('queues', `${QUEUES.join(', ')}; for ${ENDPOINT}`);
  await cancelLeftovers(client, openai);

  const worker = startWorker({ root: ROOT, dataDir, url: server.url, key: workerKey });
  stops.unshift(worker.stop);
  show.line(
    'worker',
    `process ${worker.pid}, knows only the URL and its key; answers by ${realModel ? `asking ${OPENAI_BASE_URL}` : 'reading the request'}`,
  );
  show.line(
    'input',
    `${asks.length} questions about ${sections} sections of the ${documents} documents of this project`,
  );

  const secret = await client.request<{ signing_secret: string }>('POST', '/v1/callback_secret');
  const receiver = await startReceiver(secret.signing_secret);
  stops.unshift(receiver.close);
  const checks = createChecks({ realModel });
  const died = new AbortController();
  const ended = Promise.race([
    server.exited.then((how) => `the server ended with ${how}, see ${server.log}`),
    worker.exited.then((how) => `the worker ended with ${how}, see ${worker.log}`),
  ]);
  void ended.then((what) => died.abort(new Error(what)));
  const late = AbortSignal.timeout(realModel ? PATIENCE_MS.realModel : PATIENCE_MS.demo);
  const signal = AbortSignal.any([interrupted.signal, died.signal, late]);

  const total = await runDemo({ client, openai, receiver, checks, signal }, asks, options.lines);
  interrupted.signal.throwIfAborted();
  const ok = checks.wrong.length === 0;
  if (ok) show.plain(`\nAll ${checks.right} answers came back and were right, in ${milliseconds(total.started)}.`);
  else {
    show.plain(`\n${checks.right} answers were right. Missing or wrong:`);
    for (const what of checks.wrong.slice(0, 20)) show.plain(`  ${what}`);
    if (checks.wrong.length > 20) show.plain(`  and ${checks.wrong.length - 20} more`);
    show.plain(`Logs: ${server.log}, ${worker.log}`);
  }
  if (options.exit) return ok ? 0 : 1;

  showWhatNext({ url: server.url, dataDir, logs: [server.log, worker.log], ownKey: Boolean(TASKLANE_ADMIN_KEY) });
  const what = await Promise.race([ended, new Promise((done) => interrupted.signal.addEventListener('abort', done))]);
  if (typeof what !== 'string' || interrupted.signal.aborted) return 0;
  show.plain(what);
  return 1;
}

async function runDemo(demo: Demo, asks: readonly Ask[], lines: number): Promise<{ started: number }> {
  const started = performance.now();
  const pick = (question: number) =>
    asks.find((ask) => ask.title.startsWith('README.md') && ask.question === QUESTIONS[question]) ??
    (asks[question] as Ask);
  const some = (count: number, from: number) =>
    Array.from({ length: count }, (_, index) => asks[(from + index) % asks.length] as Ask);
  /** One that fails must not hide how the others went. */
  const part = async (run: () => Promise<void>) => {
    try {
      demo.signal.throwIfAborted();
      await run();
    } catch (error) {
      if (interrupted.signal.aborted) throw error;
      const { name, message } = error as Error;
      demo.checks.fail(name === 'TimeoutError' ? 'no answer in time' : message);
    }
  };

  show.heading('batch', "a file of requests in, a file of answers out, by OpenAI's package; live questions go first");
  await part(() => runBatch(demo, some(lines, 0), some(realModel ? 2 : 10, lines)));
  show.heading('tasks', 'one by one over the Task API: the answer is posted to a URL, is the reply, or is a stream');
  await part(() => askByCallback(demo, pick(0)));
  await part(() => askBlocking(demo, pick(1)));
  await part(() => askStreaming(demo, pick(2)));
  show.heading(
    'strategies',
    'which waiting task a worker gets: tasks as they were taken, named by lane and place in the put',
  );
  show.line(
    LIVE_FIRST.strategy.padEnd(16),
    'the first lane until it is empty, then the next: as above, level 0 before level 1',
  );
  await part(() => askOldestFirst(demo, some(6, 3)));
  await part(() => askInTurn(demo, some(6, 11)));
  await part(() => askOneAtATime(demo, some(6, 19)));
  return { started };
}

function readOptions(): { exit: boolean; lines: number } {
  try {
    const { values } = parseArgs({
      options: { exit: { type: 'boolean', default: false }, lines: { type: 'string' }, help: { type: 'boolean' } },
    });
    if (values.help) {
      show.plain(USAGE);
      process.exit(0);
    }
    const lines = Number(values.lines ?? (realModel ? 20 : 300));
    if (!Number.isInteger(lines) || lines < 1 || lines > 50_000)
      throw new Error('--lines takes a number from 1 to 50000');
    return { exit: values.exit, lines };
  } catch (error) {
    throw new Plain(`${(error as Error).message}\n\n${USAGE}`);
  }
}

/** A key for this run alone. */
async function makeKey(admin: Client, role: Role): Promise<string> {
  const made = await admin.keys.create({ role, tenant: TENANT, name: 'quickstart' });
  // Right before the server stops, so after the worker has.
  stops.splice(stops.length - 1, 0, () => admin.keys.revoke(made.id).catch(() => undefined));
  return made.key;
}

/** What an interrupted run left behind would stand in this one's way. */
async function cancelLeftovers(client: Client, openai: OpenAI): Promise<void> {
  for await (const { id, status } of openai.batches.list()) {
    if (['validating', 'in_progress'].includes(status)) await openai.batches.cancel(id);
  }
  for (const status of ['waiting', 'running'] as const) {
    for await (const { task_id } of client.list({ status, limit: 1000 })) {
      await client.cancel(task_id).catch(() => undefined);
    }
  }
}

async function stopAll(): Promise<void> {
  for (const stop of stops.splice(0)) await stop();
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (interrupted.signal.aborted) process.exit(130);
    show.plain('\nStopping. Once more Ctrl-C stops at once.');
    interrupted.abort();
  });
}

let status: number;
try {
  status = await main();
} catch (error) {
  status = interrupted.signal.aborted ? 130 : 1;
  if (error instanceof Plain) process.stderr.write(`\n${error.message}\n`);
  else if (!interrupted.signal.aborted) process.stderr.write(`\n${(error as Error).stack}\n`);
}
await stopAll();
process.exit(status);
