import { setTimeout as pause } from 'node:timers/promises';
import { type OpenAI, toFile } from 'openai';
import type { Usage } from './chat.ts';
import type { Checks } from './checks.ts';
import { type Demo, numberOf } from './demo.ts';
import type { Ask } from './input.ts';
import { ENDPOINT } from './lanes.ts';
import { startLive } from './live.ts';
import { count, milliseconds, show } from './show.ts';

type Batch = OpenAI.Batches.Batch;
type Line = {
  custom_id: string;
  response: { status_code: number; request_id: string; body: { usage?: Usage } } | null;
  error: { code: string } | null;
};

const LOOK_MS = 100;
const BAR = 16;
const ENDED = ['completed', 'failed', 'expired', 'cancelled'];

/** As a program written for OpenAI does it: a file of requests in, a file of answers out. Beside it, live questions for as long as it takes. */
export async function runBatch(demo: Demo, asks: readonly Ask[], liveAsks: readonly Ask[]): Promise<void> {
  const { openai, checks, signal } = demo;
  const started = performance.now();
  const requests = asks.map(({ data }, index) =>
    JSON.stringify({ custom_id: nameOf(index), method: 'POST', url: ENDPOINT, body: data }),
  );
  const jsonl = await toFile(Buffer.from(requests.join('\n')), 'questions.jsonl');
  const file = await openai.files.create({ file: jsonl, purpose: 'batch' }, { signal });
  show.line('upload', `${count(asks.length, 'chat request')} as JSONL, ${count(file.bytes, 'byte')}: ${file.id}`);
  const order = { input_file_id: file.id, endpoint: ENDPOINT, completion_window: '24h' } as const;
  const created = await openai.batches.create(order, { signal });
  show.line('create', created.id);

  const live = startLive(demo, liveAsks);
  let batch: Batch;
  let beside: Awaited<ReturnType<typeof live.stop>>;
  try {
    batch = await watch(openai, created, live.times, signal);
  } finally {
    beside = await live.stop();
  }
  const took = milliseconds(started);
  if (batch.status !== 'completed') {
    checks.fail(`the batch is ${batch.status}: ${JSON.stringify(batch.errors?.data)}`);
    return;
  }

  const output = await readLines(openai, batch.output_file_id, signal);
  const lines = [...output, ...(await readLines(openai, batch.error_file_id, signal))];
  const right = checkLines(checks, asks, lines);
  checkCounts(checks, batch, output, asks.length);
  show.line(
    'results',
    `${right} of ${asks.length} answers right, each by its custom_id, ${took} after the upload began`,
  );
  const { input_tokens = 0, output_tokens = 0 } = batch.usage ?? {};
  show.line('usage', `${count(input_tokens, 'token')} read, ${count(output_tokens, 'token')} written`);

  const last = Math.max(...lines.map((line) => numberOf(line.response)));
  const first = beside.numbers.filter((number) => number < last).length;
  const { length: all } = live.times;
  show.line(
    'live',
    `${beside.right} of ${all} questions at level 0 right, half of them within ${median(live.times)} ms`,
  );
  show.line('', `${first} of these were begun while lines of the batch waited at level 1`);
}

/** Shows how far the batch is until it has ended. */
async function watch(openai: OpenAI, created: Batch, live: readonly number[], signal: AbortSignal): Promise<Batch> {
  const line = show.changing('');
  let batch = created;
  try {
    for (;;) {
      const { total = 0, completed = 0, failed = 0 } = batch.request_counts ?? {};
      const done = completed + failed;
      const share = total === 0 ? 0 : done / total;
      const bar = '■'.repeat(share * BAR).padEnd(BAR, '·');
      const told = total === 0 ? '' : `  ${bar}  ${done} of ${total}, ${count(live.length, 'live answer')}`;
      line.to(`${batch.status.padEnd(11)}${told}`.trimEnd(), `${batch.status} ${Math.floor(share * 4)}`);
      if (ENDED.includes(batch.status)) return batch;
      await pause(LOOK_MS, undefined, { signal });
      batch = await openai.batches.retrieve(batch.id, { signal });
    }
  } finally {
    line.end();
  }
}

async function readLines(openai: OpenAI, fileId: string | null | undefined, signal: AbortSignal): Promise<Line[]> {
  if (!fileId) return [];
  const text = await (await openai.files.content(fileId, { signal })).text();
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

/** How many are right. Each question must have one line, and each line a question. */
function checkLines(checks: Checks, asks: readonly Ask[], lines: readonly Line[]): number {
  const open = new Map(asks.map((ask, index) => [nameOf(index), ask]));
  let right = 0;
  for (const { custom_id, response, error } of lines) {
    const ask = open.get(custom_id);
    open.delete(custom_id);
    const also = {
      [`the status_code was ${response?.status_code}`]: response?.status_code === 200,
      [`the error was ${error?.code}`]: error === null,
    };
    if (!ask) checks.fail(`a line too many came back, for ${custom_id}`);
    else if (checks.check(ask, response?.body, also)) right++;
  }
  for (const [name, ask] of open) checks.fail(`${ask.title} no line came back for ${name}`);
  return right;
}

/** The batch itself must say what its files say. */
function checkCounts(checks: Checks, batch: Batch, output: readonly Line[], total: number): void {
  const sum = (field: keyof Usage) => output.reduce((all, line) => all + (line.response?.body?.usage?.[field] ?? 0), 0);
  const said = [
    batch.request_counts?.total,
    batch.request_counts?.completed,
    batch.usage?.input_tokens,
    batch.usage?.output_tokens,
  ];
  const found = [total, output.length, sum('prompt_tokens'), sum('completion_tokens')];
  if (said.join() !== found.join()) {
    checks.fail(
      `the batch says ${said.join(', ')} of its lines, answers, and tokens read and written, and its files ${found.join(', ')}`,
    );
  }
}

const nameOf = (index: number) => `question-${index + 1}`;

function median(times: readonly number[]): number {
  return Math.round(times.toSorted((a, b) => a - b)[times.length >> 1] ?? 0);
}
