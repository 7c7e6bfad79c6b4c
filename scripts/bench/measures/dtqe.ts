import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { ANSWER, type Bench, DATA, ENDPOINT } from '../bench.ts';
import { client } from '../http.ts';
import { openLoop } from '../load.ts';
import { type Findings, quantile, timesOf } from '../report.ts';

/** As Distributed-Task-Queue-Engine published them on 23 April 2026. */
const THEIRS = { rate: 9.28, submit: { p95: 11, p99: 21 }, completion: { p95: 2037, p99: 2062.94 } };
const PRIORITIES = ['low', 'normal', 'high', 'critical'];
const WORKERS = 8;
/** At this load V8 takes so long to compile what it runs: in the first five seconds a server spends 1.4 times what a life costs it later, and p95 is 40 ms. */
const WARM_SECONDS = 20;

/** A hundred times the load of Distributed-Task-Queue-Engine's published test: puts with keys and mixed priorities, workers that answer at once. */
export async function dtqe(bench: Bench): Promise<Findings> {
  const rate = Math.round(THEIRS.rate * 100);
  const seconds = bench.quick ? 3 : 30;
  const server = await bench.alone('dtqe');
  const http = client(server.url, 128);
  // Their own connections, or their calls would wait behind puts in the client.
  const worker = client(server.url, 128);
  const due = new Map<string, number>();
  const submits: number[] = [];
  const completions: number[] = [];
  const ended = new Map<string, number>();
  let stopping = false;
  const take = JSON.stringify({ queues: ['bench:0'], size: 10, wait: 1 });
  const answer = JSON.stringify(ANSWER);
  const workers = Array.from({ length: WORKERS }, async () => {
    while (!stopping) {
      const lanes = JSON.parse(await worker.post('/v1/queue/take', take)) as Record<string, { task_id: string }[]>;
      await Promise.all(
        (lanes['bench:0'] ?? []).map(async ({ task_id }) => {
          await worker.post(`/v1/queue/${task_id}/complete`, answer);
          if (ended.has(task_id)) throw new Error(`${task_id} was completed twice`);
          ended.set(task_id, performance.now());
        }),
      );
    }
  });
  let failed: unknown;
  for (const one of workers) one.catch((error) => (failed ??= error));
  const put = async (n: number, from: number) => {
    const body = {
      queue: 'bench',
      endpoint: ENDPOINT,
      data: DATA,
      priority: PRIORITIES[n % 4],
      idempotency_key: randomUUID(),
    };
    const { data } = JSON.parse(await http.post('/v1/queue/put', JSON.stringify(body))) as { data: string };
    due.set(data, from);
  };
  await openLoop(rate, bench.quick ? 1 : WARM_SECONDS, put);
  due.clear();
  submits.push(...(await openLoop(rate, seconds, put)));
  if (due.size !== submits.length)
    throw new Error(`${submits.length} puts with keys of their own made ${due.size} tasks`);
  for (const until = performance.now() + 60_000; [...due.keys()].some((id) => !ended.has(id)); await pause(20)) {
    if (failed) throw failed;
    if (performance.now() > until) throw new Error('tasks were not completed within a minute of the last put');
  }
  stopping = true;
  await Promise.all(workers);
  for (const [id, started] of due) completions.push((ended.get(id) as number) - started);
  for (const one of [http, worker]) await one.close();
  await server.stop();
  return {
    rows: [
      { work: `submit, ${rate}/s, mixed priorities`, rate, ...timesOf(submits) },
      {
        work: `submit to completed, ${rate}/s`,
        rate,
        ...timesOf(completions),
        note: `${completions.length} of ${due.size}`,
      },
      { work: 'Distributed-Task-Queue-Engine as published: submit', rate: THEIRS.rate, ...THEIRS.submit },
      { work: 'Distributed-Task-Queue-Engine as published: completion', rate: THEIRS.rate, ...THEIRS.completion },
    ],
    bars: [
      { what: 'submit p95, at 100 times the rate of 11 ms', value: quantile(submits, 0.95), atMost: 11, unit: ' ms' },
      {
        what: 'completion p95, at 100 times the rate of 2,037 ms',
        value: quantile(completions, 0.95),
        atMost: 2037,
        unit: ' ms',
      },
    ],
  };
}
