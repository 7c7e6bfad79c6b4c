import { type Bench, fill, putOf, register } from '../bench.ts';
import { type Client, client } from '../http.ts';
import { hammer } from '../load.ts';
import type { Running } from '../processes.ts';
import { type Bar, type Findings, mean, median, type Row, timesOf } from '../report.ts';

const LANES = 200;

/** Takes of ten from a short backlog and from ever longer ones, the databases asked in turns. */
export async function backlogs(bench: Bench): Promise<Findings> {
  const sizes = bench.quick ? [1_000, 100_000] : [1_000, 1_000_000, 10_000_000];
  const databases = [];
  for (const size of sizes) databases.push({ size, database: await bench.database(`backlog_${size}`) });
  const taken = await Promise.all(
    databases.map(async ({ size, database }) => {
      const server = await bench.server(database);
      await fill(database, size);
      return { size, server, http: client(server.url, 1), lanes: ['bench:1'], times: [] as number[] };
    }),
  );
  await inTurns(taken, bench.quick ? 200 : 3000);
  const rows = taken.map(
    ({ size, times }): Row => ({ work: `take 10 from ${size.toLocaleString('en')} waiting`, ...timesOf(times) }),
  );
  const longest = taken.at(-1) as { server: Running };
  const { rate, p50, p99 } = await hammer(
    `${longest.server.url}/v1/queue/take`,
    JSON.stringify({ queues: ['bench:1'], size: 10 }),
    32,
    bench.quick ? 0.5 : 4,
  );
  rows.push({ work: 'take 10, 32 connections, tasks a second', rate: rate * 10, p50, p99 });
  for (const { http, server } of taken) {
    http.close();
    await server.stop();
  }
  const [short, ...long] = taken;
  return {
    rows,
    bars: long.flatMap(({ size, times }): Bar[] => {
      const what = `take 10, ${size.toLocaleString('en')} / 1,000 waiting`;
      return beside(what, times, short?.times ?? []);
    }),
  };
}

/** The same take of one lane and of 200, of which three have work. */
export async function lanes(bench: Bench): Promise<Findings> {
  const database = await bench.database('lanes');
  const server = await bench.server(database);
  const names = Array.from({ length: LANES }, (_, n) => `lane-${n}`);
  for (const name of names) await register(server.url, name);
  await fill(database, 1_000);
  for (const n of [20, 100, 180]) await fill(database, 1_000, `lane-${n}`);
  const http = client(server.url, 1);
  const one = { http, lanes: ['bench:1'], times: [] as number[] };
  const many = { http, lanes: names.map((name) => `${name}:1`), times: [] as number[], refill: 'lane-100' };
  await inTurns([one, many], bench.quick ? 200 : 3000);
  http.close();
  await server.stop();
  return {
    rows: [
      { work: 'take 10 of one lane', ...timesOf(one.times) },
      { work: `take 10 of ${LANES} lanes, 3 with work`, ...timesOf(many.times) },
    ],
    bars: [{ what: `take 10, ${LANES} lanes / one, p50`, value: median(many.times) / median(one.times), atMost: 2 }],
  };
}

/** Each in its turn: ten tasks more, then a timed take of ten. */
async function inTurns(
  contestants: readonly { http: Client; lanes: readonly string[]; times: number[]; refill?: string }[],
  rounds: number,
): Promise<void> {
  const refill = (queue: string) =>
    JSON.stringify({ tasks: Array.from({ length: 10 }, () => JSON.parse(putOf(queue))) });
  const asked = contestants.map((one) => ({
    ...one,
    puts: refill(one.refill ?? 'bench'),
    take: JSON.stringify({ queues: one.lanes, size: 10 }),
  }));
  for (let round = -50; round < rounds; round++) {
    for (const { http, puts, take, times } of asked) {
      await http.post('/v1/queue/puts', puts);
      const started = performance.now();
      const answer = await http.post('/v1/queue/take', take);
      if (round >= 0) times.push(performance.now() - started);
      const count = answer.match(/"task_id":/g)?.length;
      if (count !== 10) throw new Error(`a take of 10 gave ${count}`);
    }
  }
}

const beside = (what: string, ours: number[], theirs: number[]): Bar[] => [
  { what: `${what}, p50`, value: median(ours) / median(theirs), atMost: 1.25 },
  { what: `${what}, mean`, value: mean(ours) / mean(theirs), atMost: 1.6 },
];
