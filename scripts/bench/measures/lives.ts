import { ANSWER, type Bench, DATA, ENDPOINT, putOf, register } from '../bench.ts';
import { type Client, client } from '../http.ts';
import { startPeer } from '../peers/peers.ts';
import { type Findings, median, ratioOf } from '../report.ts';

/**
 * Whole lives, each task put, taken and completed over HTTP, all of it going on at once; beside peers that only work off what was put
 * before, in process, but for one row. Every task is accounted for.
 */
export async function lives(bench: Bench): Promise<Findings> {
  const count = bench.quick ? 500 : 20_000;
  const server = await bench.alone('lives');
  await register(server.url, 'single');
  await register(server.url, 'bulk');
  const http = client(server.url, 400);
  const graphile = await startPeer(bench, 'graphile-worker');
  const boss = await startPeer(bench, 'pg-boss');
  const contender = (work: string, run: (count: number) => Promise<number> | undefined) => ({
    work,
    run,
    rates: [] as number[],
  });
  const one = contender('whole life: a request a put, takes of 10, a request a complete', (n) => single([http], n, 64));
  const few = contender('the same by 16 workers instead of 64', (n) => single([http], n, 16));
  const many = contender('whole life in bulk: puts of 100, takes of 100, completes of 100', (n) => bulk(http, n));
  const drain = contender('graphile-worker works off, by default', (n) => graphile?.drain(n));
  const fast = contender('graphile-worker works off, with local queue and batched completion', (n) =>
    graphile?.drainFast(n),
  );
  const whole = contender('graphile-worker, the same with its bulk adding counted', (n) => graphile?.wholeFast(n));
  const fetched = contender('pg-boss works off, fetch 1 and complete', (n) => boss?.drain(Math.ceil(n / 5)));
  const contenders = [one, few, many, drain, fast, whole, fetched];
  for (let round = -1; round < bench.rounds; round++) {
    for (const { run, rates } of contenders) {
      const rate = await run(count);
      if (round >= 0) rates.push(rate as number);
    }
  }
  http.close();
  await graphile?.close();
  await boss?.close();
  await server.stop();

  return {
    rows: contenders.map(({ work, rates }) => ({ work, rate: median(rates) })),
    bars: [
      { what: 'whole life / graphile-worker by default', value: ratioOf(one.rates, drain.rates), atLeast: 2 },
      { what: 'whole life / pg-boss fetch 1 and complete', value: ratioOf(one.rates, fetched.rates), atLeast: 4 },
      {
        what: 'whole life in bulk / graphile-worker with all it has',
        value: ratioOf(many.rates, fast.rates),
        atLeast: 1,
      },
    ],
  };
}

type Taken = { task_id: string; attempt: number };

/** Counts answers, and refuses a second one to the same task. */
function account(count: number) {
  const done = new Set<string>();
  const started = performance.now();
  let ended = started;
  return {
    done,
    add(id: string) {
      if (done.has(id)) throw new Error(`${id} was taken twice`);
      done.add(id);
      ended = performance.now();
    },
    get missing() {
      return count - done.size;
    },
    rate() {
      if (done.size !== count) throw new Error(`${done.size} of ${count} lives came to their end`);
      return count / ((ended - started) / 1000);
    },
  };
}

/**
 * Lives a second, in the queue `single`: 128 connections put. With 16 workers that is over after three quarters of the time; with 64 all of it goes on
 * to the end. Connections and workers go round the servers.
 */
export async function single(https: readonly Client[], count: number, workerCount: number): Promise<number> {
  const put = putOf('single', 0);
  const take = JSON.stringify({ queues: ['single:0'], size: 10, wait: 1 });
  const answer = JSON.stringify(ANSWER);
  const book = account(count);
  let left = count;
  const httpOf = (n: number) => https[n % https.length] as Client;
  const putters = Array.from({ length: 128 }, async (_, n) => {
    while (left-- > 0) await httpOf(n).post('/v1/queue/put', put);
  });
  const workers = Array.from({ length: workerCount }, async (_, n) => {
    const http = httpOf(n);
    while (book.missing > 0) {
      const lanes = JSON.parse(await http.post('/v1/queue/take', take)) as Record<string, Taken[]>;
      await Promise.all(
        (lanes['single:0'] ?? []).map(async ({ task_id }) => {
          await http.post(`/v1/queue/${task_id}/complete`, answer);
          book.add(task_id);
        }),
      );
    }
  });
  await Promise.all([...putters, ...workers]);
  return book.rate();
}

async function bulk(http: Client, count: number): Promise<number> {
  const task = { queue: 'bulk', endpoint: ENDPOINT, level: 1, data: DATA };
  const puts = JSON.stringify({ tasks: Array.from({ length: 100 }, () => task) });
  const take = JSON.stringify({ queues: ['bulk:1'], size: 100, wait: 1 });
  const book = account(count);
  let left = count;
  const putters = Array.from({ length: 8 }, async () => {
    while (left > 0) {
      left -= 100;
      await http.post('/v1/queue/puts', puts);
    }
  });
  const workers = Array.from({ length: 16 }, async () => {
    while (book.missing > 0) {
      const lanes = JSON.parse(await http.post('/v1/queue/take', take)) as Record<string, Taken[]>;
      const taken = lanes['bulk:1'] ?? [];
      if (taken.length === 0) continue;
      const results = taken.map(({ task_id, attempt }) => ({ task_id, attempt, ...ANSWER }));
      const { data } = JSON.parse(await http.post('/v1/queue/complete', JSON.stringify({ results }))) as {
        data: { task_id: string; ok: boolean }[];
      };
      for (const { task_id, ok } of data) {
        if (!ok) throw new Error(`the answer to ${task_id} was refused`);
        book.add(task_id);
      }
    }
  });
  await Promise.all([...putters, ...workers]);
  return book.rate();
}
