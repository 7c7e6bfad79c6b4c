import pg from 'pg';
import { ANSWER, type Bench, fill, putOf } from '../bench.ts';
import { client } from '../http.ts';
import { openLoop } from '../load.ts';
import { type Findings, mean, median, type Row, timesOf } from '../report.ts';

/** Tasks a second in each of the two databases, ten a call. */
const RATE = 1000;

/**
 * Takes while 1,000 tasks a second come and go, in two databases at the same time: in one of them a session holds a snapshot all the while, as a
 * long report or a forgotten transaction does, so that nothing which was deleted since can be cleaned up.
 */
export async function snapshot(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 4 : 600;
  const parts = bench.quick ? 2 : 10;
  const databases = [await bench.database('snapshot_free'), await bench.database('snapshot_held')];
  const sides = await Promise.all(
    databases.map(async (database) => {
      const server = await bench.server(database);
      await fill(database, 1_000);
      return { database, server, http: client(server.url, 16), times: [] as number[][] };
    }),
  );
  const holder = new pg.Client({ connectionString: sides[1]?.database as string });
  await holder.connect();
  await holder.query('begin isolation level repeatable read; select count(*) from tasklane.ready');
  const held = holder.query(`select pg_sleep(${seconds * 2})`).catch(() => undefined);

  const puts = JSON.stringify({ tasks: Array.from({ length: 10 }, () => JSON.parse(putOf('bench'))) });
  const take = JSON.stringify({ queues: ['bench:1'], size: 10 });
  let ended = 0;
  for (let part = 0; part < parts; part++) {
    await Promise.all(
      sides.map(async ({ http, times }) => {
        const own: number[] = [];
        times.push(own);
        await openLoop(RATE / 10, seconds / parts, async () => {
          await http.post('/v1/queue/puts', puts);
          const started = performance.now();
          const lanes = JSON.parse(await http.post('/v1/queue/take', take)) as Record<string, { task_id: string }[]>;
          own.push(performance.now() - started);
          const results = (lanes['bench:1'] ?? []).map(({ task_id }) => ({ task_id, ...ANSWER }));
          const { data } = JSON.parse(await http.post('/v1/queue/complete', JSON.stringify({ results })));
          ended += (data as { ok: boolean }[]).filter(({ ok }) => ok).length;
        });
      }),
    );
  }
  await holder.end();
  await held;
  if (ended !== 2 * RATE * seconds) throw new Error(`${ended} of ${2 * RATE * seconds} tasks were completed`);
  for (const { http, server } of sides) {
    http.close();
    await server.stop();
  }

  const [free, kept] = sides.map(({ times }) => times) as [number[][], number[][]];
  const minutes = (part: number) => `${Math.round(((part + 1) * seconds) / parts)} s`;
  const last = parts - 1;
  return {
    rows: kept.flatMap((times, part): Row[] =>
      part === 0 || part === last || (part + 1) % 3 === 0
        ? [
            { work: `take 10 under 1,000 tasks/s, snapshot held, up to ${minutes(part)}`, ...timesOf(times) },
            {
              work: `take 10 under 1,000 tasks/s, none held, up to ${minutes(part)}`,
              ...timesOf(free[part] as number[]),
            },
          ]
        : [],
    ),
    bars: [
      {
        what: `take 10, snapshot held for ${seconds} s / none, p50`,
        value: median(kept[last] as number[]) / median(free[last] as number[]),
        atMost: 1.25,
      },
      {
        what: `take 10, snapshot held for ${seconds} s / none, mean`,
        value: mean(kept[last] as number[]) / mean(free[last] as number[]),
        atMost: 1.6,
      },
    ],
  };
}
