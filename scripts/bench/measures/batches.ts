import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import { ANSWER, type Bench, ENDPOINT } from '../bench.ts';
import { client, KEY } from '../http.ts';
import type { Running } from '../processes.ts';
import { type Findings, median, type Row, ratioOf } from '../report.ts';

const WORKERS = 4;
const TAKE = 500;
/** Of long lines: what is answered is the Task API's memory, not the batch's. */
const TAKE_LONG = 10;
const PUTS = 1000;
const LONG_LINES = 1000;

/** The body of a request, of about so many bytes. */
const request = (model: string, bytes: number) => ({
  model,
  messages: [
    {
      role: 'user',
      content: 'Say in one sentence what a queue is for. '.repeat(Math.ceil(bytes / 41)).slice(0, bytes),
    },
  ],
});

const LIMITS = { TASKLANE_BATCH_MAX_LINES: '1000000', TASKLANE_BATCH_MAX_BYTES: '209715200' };

/**
 * A batch, beside as many tasks put by `puts`: how fast its lines come to wait, and how fast it is completed by workers that answer at
 * once; and the memory of servers that run one, beside idle.
 */
export async function batches(bench: Bench): Promise<Findings> {
  const lines = bench.quick ? 10_000 : 50_000;
  const server = async (name: string) => bench.server(await bench.database(name), LIMITS);
  const running = await server('batches');
  const rates = { puts: [] as number[], expand: [] as number[], bulk: [] as number[], batch: [] as number[] };
  for (let round = 0; round < bench.rounds; round++) {
    const put = await bulk(running, `bulk${round}`, lines);
    rates.puts.push(put.puts);
    rates.bulk.push(put.life);
    const batch = await runBatch(running, `batch${round}`, inputOf(`batch${round}`, lines, 160));
    rates.expand.push(lines / batch.waitingSeconds);
    rates.batch.push(lines / batch.completedSeconds);
  }
  await running.stop();

  const rows: Row[] = [
    { work: `puts of ${PUTS}, ${lines} tasks`, rate: median(rates.puts) },
    {
      work: `batch of ${lines}: create to all lines waiting`,
      rate: median(rates.expand),
      note: `${ratioOf(rates.expand, rates.puts).toFixed(2)} of puts`,
    },
    { work: `bulk lives: puts, takes and completes of hundreds`, rate: median(rates.bulk) },
    {
      work: `batch of ${lines}: create to completed`,
      rate: median(rates.batch),
      note: `${ratioOf(rates.batch, rates.bulk).toFixed(2)} of bulk lives`,
    },
  ];
  const inputs: [string, (model: string) => Buffer][] = [
    [`${lines} lines`, (model) => inputOf(model, lines, 160)],
    [`${2 * lines} lines`, (model) => inputOf(model, 2 * lines, 160)],
    [`${LONG_LINES} lines of 100 KB`, (model) => inputOf(model, LONG_LINES, 100_000)],
  ];
  for (const [index, [what, make]] of inputs.entries()) {
    const fresh = await server(`memory_${index}`);
    // Once before, so that what a first batch loads and compiles does not count.
    await runBatch(fresh, 'warm', inputOf('warm', 1000, 160));
    const idle = await resident(fresh.pid);
    await runBatch(fresh, 'memory', make('memory'));
    const peak = await peakResident(fresh.pid);
    rows.push({
      work: `memory of the server, batch of ${what}`,
      note: `${Math.round((peak - idle) / 1024)} MB above ${Math.round(idle / 1024)}`,
    });
    await fresh.stop();
  }
  return { rows };
}

function inputOf(model: string, lines: number, bytes: number): Buffer {
  const body = request(model, bytes);
  const text = Array.from({ length: lines }, (_, n) =>
    JSON.stringify({ custom_id: `request-${n}`, method: 'POST', url: ENDPOINT, body }),
  );
  return Buffer.from(`${text.join('\n')}\n`);
}

/** As many tasks by the Task API, as fast as they go in bulk. */
async function bulk(server: Running, queue: string, count: number): Promise<{ puts: number; life: number }> {
  const http = client(server.url, WORKERS * 2);
  await http.post('/v1/queue/register', JSON.stringify({ queue, endpoint: ENDPOINT }));
  const task = { queue, endpoint: ENDPOINT, level: 1, data: request(queue, 160) };
  const puts = JSON.stringify({ tasks: Array.from({ length: PUTS }, () => task) });
  const started = performance.now();
  let left = count;
  await Promise.all(
    Array.from({ length: 2 }, async () => {
      while (left > 0) {
        left -= PUTS;
        await http.post('/v1/queue/puts', puts);
      }
    }),
  );
  const put = performance.now();
  await answerAll(server, queue, count, TAKE);
  http.close();
  return { puts: count / ((put - started) / 1000), life: count / ((performance.now() - started) / 1000) };
}

/** Uploads and runs a batch with workers that answer at once; every line must come back. */
async function runBatch(server: Running, queue: string, input: Buffer) {
  const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEY });
  const http = client(server.url, 2);
  await http.post('/v1/queue/register', JSON.stringify({ queue, endpoint: ENDPOINT }));
  http.close();
  const file = await openai.files.create({ file: await toFile(input, 'input.jsonl'), purpose: 'batch' });
  const lines = input.toString('latin1').trimEnd().split('\n').length;
  const started = performance.now();
  let batch = await openai.batches.create({ input_file_id: file.id, endpoint: ENDPOINT, completion_window: '24h' });
  const { id } = batch;
  while ((await waiting(server, queue)) < lines) await pause(10);
  const waited = performance.now();
  await answerAll(server, queue, lines, input.length / lines > 10_000 ? TAKE_LONG : TAKE);
  while (batch.status !== 'completed') {
    batch = await openai.batches.retrieve(id);
    if (batch.status === 'failed') throw new Error(JSON.stringify(batch.errors));
    await pause(10);
  }
  const completed = performance.now();
  const output = await (await openai.files.content(batch.output_file_id as string)).text();
  const ids = new Set(
    output
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).custom_id),
  );
  if (ids.size !== lines) throw new Error(`${ids.size} of ${lines} lines came back`);
  return { waitingSeconds: (waited - started) / 1000, completedSeconds: (completed - started) / 1000 };
}

async function waiting(server: Running, queue: string): Promise<number> {
  const answer = await fetch(`${server.url}/v1/queue/${queue}:1/backlog`, {
    headers: { authorization: `Bearer ${KEY}` },
  });
  return Number(await answer.text());
}

async function answerAll(server: Running, queue: string, count: number, size: number): Promise<void> {
  const http = client(server.url, WORKERS);
  const lane = `${queue}:1`;
  const take = JSON.stringify({ queues: [lane], size, wait: 1 });
  let done = 0;
  await Promise.all(
    Array.from({ length: WORKERS }, async () => {
      while (done < count) {
        const tasks = (JSON.parse(await http.post('/v1/queue/take', take))[lane] ?? []) as {
          task_id: string;
          attempt: number;
        }[];
        if (tasks.length === 0) continue;
        const results = tasks.map(({ task_id, attempt }) => ({ task_id, attempt, ...ANSWER }));
        const { data } = JSON.parse(await http.post('/v1/queue/complete', JSON.stringify({ results })));
        done += (data as { ok: boolean }[]).filter((one) => one.ok).length;
      }
    }),
  );
  http.close();
}

/** KiB; the peak counts from here on. */
async function resident(pid: number): Promise<number> {
  await writeFile(`/proc/${pid}/clear_refs`, '5');
  return field(pid, 'VmRSS');
}

const peakResident = (pid: number) => field(pid, 'VmHWM');

async function field(pid: number, name: string): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
}
