import { ANSWER, type Bench, putOf } from '../bench.ts';
import { client } from '../http.ts';
import { openLoop } from '../load.ts';
import { type Findings, median, quantile, type Row, ratioOf, timesOf } from '../report.ts';

const RATE = 300;
/** Enough that one always waits: eight were all busy on a loaded machine, and what was measured was their queue (p50 1,600 ms for 40). */
const POLLS = 32;

/**
 * From a blocking put to its answer, where a worker waits on a long poll and answers at once; beside plain puts at the same rate, in turns. With
 * worker and client at one server, and at two servers on one database.
 */
export async function roundtrip(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 0.5 : 6;
  // Two databases: a server that is not alone on its own tells the other of everything.
  const alone = await bench.alone('roundtrip');
  const shared = await bench.database('roundtrip_two');
  const [near, far] = await Promise.all([bench.server(shared), bench.server(shared)]);
  const toAlone = { client: client(alone.url, 256), worker: alone.url };
  const toTwo = { client: client(near.url, 256), worker: far.url };
  const rounds = { put: [] as number[][], one: [] as number[][], two: [] as number[][] };
  const idle: number[] = [];
  const put = putOf('bench', 1);
  const blocking = JSON.stringify({ ...JSON.parse(put), level: 0, response_mode: 'blocking' });
  const measure = async (to: typeof toAlone) => {
    const worker = work(to.worker);
    const times = await openLoop(RATE, seconds, async () => {
      worker.noteIdle();
      if ((await to.client.post('/v1/queue/put', blocking)) !== JSON.stringify(ANSWER.body))
        throw new Error('a blocking put had another answer than its worker gave');
    });
    idle.push(await worker.stop());
    return times;
  };
  const puts = () => openLoop(RATE, seconds, () => toAlone.client.post('/v1/queue/put', put));
  for (const warm of [puts, () => measure(toAlone), () => measure(toTwo)]) await warm();
  idle.length = 0;
  for (let round = 0; round < bench.rounds; round++) {
    rounds.put.push(await puts());
    rounds.one.push(await measure(toAlone));
    rounds.two.push(await measure(toTwo));
  }
  for (const { client } of [toAlone, toTwo]) client.close();
  for (const server of [alone, near, far]) await server.stop();

  const row = (work: string, times: number[][]): Row => ({ work, ...timesOf(times.flat()) });
  const ratio = (ours: number[][], q: number) =>
    ratioOf(
      ours.map((round) => quantile(round, q)),
      rounds.put.map((round) => quantile(round, q)),
    );
  return {
    rows: [
      row(`callback put, ${RATE}/s`, rounds.put),
      {
        ...row(`blocking put to its answer, worker idle, ${RATE}/s`, rounds.one),
        note: `a poll was free at ${(median(idle) * 100).toFixed(1)} % of the puts`,
      },
      row(`the same, worker and client at different servers`, rounds.two),
    ],
    bars: [
      { what: 'blocking round trip / put, p50', value: ratio(rounds.one, 0.5), atMost: 4 },
      { what: 'blocking round trip / put, p99', value: ratio(rounds.one, 0.99), atMost: 8 },
      { what: 'round trip over two servers / put, p50', value: ratio(rounds.two, 0.5), atMost: 8 },
      { what: 'round trip over two servers / put, p99', value: ratio(rounds.two, 0.99), atMost: 16 },
    ],
  };
}

/** A worker that takes one task a long poll and answers it at once. `stop` breaks off its polls, and gives the share of puts at which a poll had none coming. */
function work(url: string) {
  // Connections of its own: blocking puts that hold them all would keep it from answering, for good.
  const http = client(url, 2 * POLLS);
  let stopping = false;
  let waiting = 0;
  let taken = 0;
  const noted = { all: 0, idle: 0 };
  const take = JSON.stringify({ queues: ['bench:0'], size: 1, wait: 1 });
  const answer = JSON.stringify(ANSWER);
  const takeAndAnswer = async () => {
    waiting++;
    const lanes = JSON.parse(await http.post('/v1/queue/take', take)) as Record<string, { task_id: string }[]>;
    waiting--;
    const tasks = lanes['bench:0'] ?? [];
    taken += tasks.length;
    for (const { task_id } of tasks) await http.post(`/v1/queue/${task_id}/complete`, answer);
  };
  const loops = Array.from({ length: POLLS }, async () => {
    while (!stopping) {
      await takeAndAnswer().catch((error) => {
        if (!stopping) throw error; // the last polls are broken off
      });
    }
  });
  // A failure is thrown by stop; until then it must not end the process, which would leave Postgres and the servers behind.
  for (const loop of loops) loop.catch(() => undefined);
  return {
    /** Before each put. A task that is under way will have one of the polls that wait. */
    noteIdle(): void {
      if (waiting > noted.all - taken) noted.idle++;
      noted.all++;
    },
    async stop(): Promise<number> {
      stopping = true;
      http.close();
      await Promise.all(loops);
      return noted.idle / noted.all;
    },
  };
}
