import { type Bench, putOf } from '../bench.ts';
import { hammer } from '../load.ts';
import { type PeerName, startPeer } from '../peers/peers.ts';
import { type Bar, type Findings, median, type Row, ratioOf } from '../report.ts';

const CONNECTIONS = 256;
const PEERS: { name: PeerName; work: string; atLeast: number }[] = [
  { name: 'bullmq', work: 'BullMQ add, in process, Redis without persistence', atLeast: 0.6 },
  { name: 'pg-boss', work: 'pg-boss send, in process', atLeast: 8 },
  { name: 'graphile-worker', work: 'graphile-worker addJob, in process', atLeast: 10 },
];

/** A request a put, beside an Express program that does nothing with the same request, and beside the call of its peers that adds one job. */
export async function puts(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 0.3 : 4;
  const body = putOf('bench');
  const echo = await bench.program(['scripts/bench/echo.ts']);
  const server = await bench.alone('puts');
  const url = `${server.url}/v1/queue/put`;
  type Contender = {
    work: string;
    run(seconds: number): Promise<Partial<Row>>;
    runs: Partial<Row>[];
    atLeast?: number;
  };
  const contenders: Contender[] = [];
  const enter = (work: string, run: Contender['run'], atLeast?: number) =>
    contenders.push({ work, run, runs: [], ...(atLeast !== undefined && { atLeast }) });

  enter(`put, ${CONNECTIONS} connections`, (time) => hammer(url, body, CONNECTIONS, time));
  enter('put, 32 connections', (time) => hammer(url, body, 32, time));
  enter('Express echo (express.json, res.json)', (time) => hammer(`${echo.url}/echo`, body, CONNECTIONS, time), 0.75);
  enter('Express echo, nothing parsed', (time) => hammer(`${echo.url}/raw`, body, CONNECTIONS, time));
  const peers = [];
  for (const { name, work, atLeast } of PEERS) {
    const peer = await startPeer(bench, name);
    if (!peer) continue;
    peers.push(peer);
    enter(work, async (time) => ({ rate: await peer.add(time, CONNECTIONS) }), atLeast);
  }

  for (const { run } of contenders) await run(bench.quick ? 0.6 : 4); // less leaves Node compiling while it is measured
  for (let round = 0; round < bench.rounds; round++) {
    for (const { run, runs } of contenders) runs.push(await run(seconds));
  }
  for (const peer of peers) await peer.close();
  const sweep: Row[] = [];
  for (const connections of [1, 8, 64, 512]) {
    const { rate, p50, p99 } = await hammer(url, body, connections, seconds);
    sweep.push({ work: `put, ${connections} connections`, rate, p50, p99 });
  }
  await server.stop();
  await echo.stop();

  const of = (runs: Partial<Row>[], field: 'rate' | 'p50' | 'p99') => runs.map((run) => run[field] ?? Number.NaN);
  const ours = of((contenders[0] as Contender).runs, 'rate');
  const rows = contenders.map(
    ({ work, runs }): Row => ({
      work,
      rate: median(of(runs, 'rate')),
      ...(runs[0]?.p50 !== undefined && { p50: median(of(runs, 'p50')), p99: median(of(runs, 'p99')) }),
    }),
  );
  const bars = contenders.flatMap(({ work, runs, atLeast }): Bar[] =>
    atLeast === undefined
      ? []
      : [{ what: `put / ${work.replace(/,.*| \(.*/, '')}`, value: ratioOf(ours, of(runs, 'rate')), atLeast }],
  );
  return { rows: [...rows, ...sweep], bars };
}
