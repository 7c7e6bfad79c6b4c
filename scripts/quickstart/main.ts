import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { createChecks } from './checks.ts';
import {
  askBlocking,
  askByCallback,
  askInBulk,
  askInTurn,
  askOldestFirst,
  askOneAtATime,
  askStreaming,
  type Demo,
} from './demo.ts';
import { type Ask, readInput } from './input.ts';
import { ENDPOINT, LIVE_FIRST, QUEUES } from './lanes.ts';
import { Plain, startServer, startWorker } from './processes.ts';
import { QUESTIONS } from './reader.ts';
import { startReceiver } from './receiver.ts';
import { milliseconds, show } from './show.ts';
import { connect, type Tasklane } from './tasklane.ts';

const USAGE = `sh scripts/quickstart.sh [--exit] [--tasks N]

Starts Tasklane on a Postgres of its own, sends this project's documents through it, and leaves it running until Ctrl-C.

  --exit      stop everything at the end; status 0 only if every answer came back right
  --tasks N   how many bulk tasks to send (300; 20 to a real model)

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

  show.heading('Tasklane', 'a queue server that needs nothing but Postgres');
  if (DATABASE_URL) show.line('note', 'DATABASE_URL is left alone: the quickstart uses a Postgres of its own');
  const port = Number(PORT || 8080);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new Plain(`PORT is ${PORT}, and no port`);
  const server = await startServer({ root: ROOT, dataDir, host: HOST || '127.0.0.1', port });
  stops.unshift(server.stop);
  interrupted.signal.throwIfAborted();
  show.line('server', `${server.url}, its Postgres in ${dataDir}, ready after ${milliseconds(started)}`);
  const adminKey = TASKLANE_ADMIN_KEY || readFileSync(resolve(ROOT, dataDir, 'admin.key'), 'utf8').trim();
  const admin = connect(server.url, adminKey);
  const client = connect(server.url, await makeKey(admin, 'client'));
  const workerKey = await makeKey(admin, 'worker');
  for (const queue of QUEUES) await admin.call('POST', '/v1/queue/register', { queue, endpoint: ENDPOINT });
  show.line('queues', `${QUEUES.join(', ')}; for ${ENDPOINT}`);
  await cancelLeftovers(client);

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

  const secret = await client.call<{ signing_secret: string }>('POST', '/v1/callback_secret');
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

  const total = await runDemo({ client, receiver, checks, signal }, asks, options.tasks);
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

  showWhatNext(server.url, dataDir, [server.log, worker.log]);
  const what = await Promise.race([ended, new Promise((done) => interrupted.signal.addEventListener('abort', done))]);
  if (typeof what !== 'string' || interrupted.signal.aborted) return 0;
  show.plain(what);
  return 1;
}

async function runDemo(demo: Demo, asks: readonly Ask[], bulk: number): Promise<{ started: number }> {
  const started = performance.now();
  const pick = (question: number) =>
    asks.find((ask) => ask.title.startsWith('README.md') && ask.title.endsWith(QUESTIONS[question] as string)) ??
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

  show.heading('callback', 'the put is answered with an id, and the answer is posted to a URL');
  await part(() => askByCallback(demo, pick(0)));
  show.heading('blocking', 'the reply to the put is the answer');
  await part(() => askBlocking(demo, pick(1)));
  show.heading('streaming', 'the reply to the put is a stream of what the worker reports');
  await part(() => askStreaming(demo, pick(2)));
  show.heading('bulk', `${bulk} tasks at level 1 in one call; live questions at level 0 beside them`);
  await part(() => askInBulk(demo, some(bulk, 0), some(realModel ? 2 : 10, bulk)));
  show.heading(
    'strategies',
    'which waiting task a worker gets: tasks in the order they were taken, named by lane and place in the put',
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

function readOptions(): { exit: boolean; tasks: number } {
  try {
    const { values } = parseArgs({
      options: { exit: { type: 'boolean', default: false }, tasks: { type: 'string' }, help: { type: 'boolean' } },
    });
    if (values.help) {
      show.plain(USAGE);
      process.exit(0);
    }
    const tasks = Number(values.tasks ?? (realModel ? 20 : 300));
    if (!Number.isInteger(tasks) || tasks < 1 || tasks > 1000) throw new Error('--tasks takes a number from 1 to 1000');
    return { exit: values.exit, tasks };
  } catch (error) {
    throw new Plain(`${(error as Error).message}\n\n${USAGE}`);
  }
}

/** A key for this run alone. */
async function makeKey(admin: Tasklane, role: string): Promise<string> {
  const key = { role, tenant: TENANT, name: 'quickstart' };
  const made = await admin.call<{ id: string; key: string }>('POST', '/v1/keys', key);
  // Right before the server stops, so after the worker has.
  stops.splice(stops.length - 1, 0, () => admin.call<void>('DELETE', `/v1/keys/${made.id}`).catch(() => undefined));
  return made.key;
}

/** What an interrupted run left behind would stand in this one's way. */
async function cancelLeftovers(client: Tasklane): Promise<void> {
  for (const status of ['waiting', 'running']) {
    const { data } = await client.call<{ data: { task_id: string }[] }>('GET', `/v1/tasks?status=${status}&limit=1000`);
    await Promise.all(data.map(({ task_id }) => client.request('POST', `/v1/queue/${task_id}/cancel`)));
  }
}

function showWhatNext(url: string, dataDir: string, logs: string[]): void {
  const key = TASKLANE_ADMIN_KEY ? '$TASKLANE_ADMIN_KEY' : `$(cat ${dataDir}/admin.key)`;
  const put = (mode: string) =>
    `curl -sN -w '\\n' ${url}/v1/queue/put -H "$AUTH" -d '{"queue": "documents", "endpoint": "${ENDPOINT}", "response_mode": "${mode}",\n    "data": {"messages": [{"role": "user", "content": "How many words do I write?"}]}}'`;
  show.heading('next', 'the server and the worker go on until Ctrl-C; in another terminal, in this folder:');
  show.plain(`
  AUTH="Authorization: Bearer ${key}"
  ${put('blocking')}
  ${put('streaming')}
  curl -s -w '\\n' ${url}/v1/queues -H "$AUTH"
  curl -s -w '\\n' "${url}/v1/tasks?limit=2" -H "$AUTH"
  psql "$(cat ${dataDir}/database.url)" -c "select task_id, queue, status from tasklane.task_status order by id desc limit 9"

  admin key   ${TASKLANE_ADMIN_KEY ? 'that of TASKLANE_ADMIN_KEY' : `${dataDir}/admin.key`}
  logs        ${logs.join(', ')}
  read on     README.md, docs/put-and-get-answers.md, docs/write-a-worker.md
`);
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
