import { ANSWER, type Bench, putOf } from '../bench.ts';
import { type Client, client, openLoop } from '../load.ts';
import { type Findings, median, quantile, type Row, timesOf } from '../report.ts';

const RATE = 300;
const WORKERS = 8;

/**
 * From a blocking put to its answer, where a worker waits on a long poll and answers at once; beside plain puts at the same rate. With worker and
 * client at one server, and at two servers on one database.
 */
export async function roundtrip(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 2 : 10;
  const database = await bench.database('roundtrip');
  const one = await bench.server(database);
  const alone = client(one.url, 64);
  const rounds = { put: [] as number[][], one: [] as number[][], two: [] as number[][] };
  const put = putOf('bench', 1);
  const measure = async (worker: Client) => {
    const stop = await work(worker);
    const blocking = JSON.stringify({ ...JSON.parse(putOf('bench', 0)), response_mode: 'blocking' });
    const times = await openLoop(RATE, seconds, async () => {
      if ((await alone.post('/v1/queue/put', blocking)) !== JSON.stringify(ANSWER.body))
        throw new Error('a wrong answer');
    });
    await stop();
    return times;
  };
  const puts = () => openLoop(RATE, seconds, () => alone.post('/v1/queue/put', put));
  await puts();
  await measure(alone);
  for (let round = 0; round < bench.rounds; round++) {
    rounds.put.push(await puts());
    rounds.one.push(await measure(alone));
  }
  const other = await bench.server(database);
  const elsewhere = client(other.url, 64);
  await measure(elsewhere);
  for (let round = 0; round < bench.rounds; round++) rounds.two.push(await measure(elsewhere));
  for (const http of [alone, elsewhere]) await http.close();
  for (const server of [one, other]) await server.stop();

  const of = (times: number[][], q: number) => median(times.map((round) => quantile(round, q)));
  const row = (work: string, times: number[][]): Row => ({ work, ...timesOf(times.flat()) });
  const ratio = (ours: number[][], theirs: number[][], q: number) => of(ours, q) / of(theirs, q);
  return {
    rows: [
      row(`callback put, ${RATE}/s`, rounds.put),
      row(`blocking put to its answer, worker idle, ${RATE}/s`, rounds.one),
      row(`the same, worker and client at different servers`, rounds.two),
    ],
    bars: [
      { what: 'blocking round trip / put, p50', value: ratio(rounds.one, rounds.put, 0.5), atMost: 4 },
      { what: 'blocking round trip / put, p99', value: ratio(rounds.one, rounds.put, 0.99), atMost: 8 },
      { what: 'round trip over two servers / over one, p50', value: ratio(rounds.two, rounds.one, 0.5), atMost: 2 },
      { what: 'round trip over two servers / over one, p99', value: ratio(rounds.two, rounds.one, 0.99), atMost: 2 },
    ],
  };
}

/** Workers that take one task at a time by long polls and answer it at once. Gives the function that ends them. */
async function work(http: Client): Promise<() => Promise<void>> {
  let stopping = false;
  const take = JSON.stringify({ queues: ['bench:0'], size: 1, wait: 1 });
  const answer = JSON.stringify(ANSWER);
  const loops = Array.from({ length: WORKERS }, async () => {
    while (!stopping) {
      const lanes = JSON.parse(await http.post('/v1/queue/take', take)) as Record<string, { task_id: string }[]>;
      for (const { task_id } of lanes['bench:0'] ?? []) await http.post(`/v1/queue/${task_id}/complete`, answer);
    }
  });
  return async () => {
    stopping = true;
    await Promise.all(loops);
  };
}
