/**
 * The quickstart's demo worker: a process that knows a server's URL and a worker key.
 *
 *     WORKER_KEY=sk-… node scripts/quickstart/worker.ts http://127.0.0.1:8080
 *
 * With OPENAI_BASE_URL set it asks that model server (OPENAI_API_KEY, OPENAI_MODEL); without it, it reads the request and answers itself.
 */
import { createWorker, type Handler } from '../../client/worker.ts';
import type { ChatRequest } from './chat.ts';
import { TAKINGS } from './lanes.ts';
import { demoModel, openAiModel } from './model.ts';

const { WORKER_KEY = '', OPENAI_BASE_URL, OPENAI_API_KEY = 'none', OPENAI_MODEL = 'default' } = process.env;
const model = OPENAI_BASE_URL ? openAiModel(OPENAI_MODEL, OPENAI_API_KEY) : demoModel;

let begun = 0;

/** Numbers its answers in the order in which it begins them. */
const reply: Handler<ChatRequest> = async ({ data, response_mode: mode }, { emitProgress, answer }) => {
  const number = `demo-${++begun}`;
  const report = async (chunk: unknown) => emitProgress('chunk', chunk);
  try {
    return answer(200, await model(data, mode === 'streaming' ? report : undefined), number);
  } catch (error) {
    const { status, message } = error as { status?: unknown; message: string };
    const code = typeof status === 'number' && status >= 400 && status <= 599 ? status : 502;
    return answer(code, { error: { message } }, number);
  }
};

const workers = TAKINGS.map(({ lanes, strategy, concurrency }, index) =>
  createWorker({
    baseUrl: process.argv[2],
    apiKey: WORKER_KEY,
    id: `demo-${process.pid}-${index + 1}`,
    queues: lanes,
    strategy,
    concurrency,
    handlers: { '*': reply },
    handleSignals: false,
    drainSeconds: 5,
    log: (line) => console.error(new Date().toISOString(), line),
  }),
);
const stop = async () => {
  await Promise.all(workers.map((worker) => worker.stop()));
  process.exit(0);
};
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
// The quickstart holds the other end: when it is gone, however it went, so is this.
process.stdin.on('end', stop).resume();
await Promise.all(workers.map((worker) => worker.start()));
