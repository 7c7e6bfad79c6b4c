import { setTimeout as pause } from 'node:timers/promises';
import type { Bench } from '../bench.ts';
import { client } from '../http.ts';
import { postgresCpu, type Running, serverCpu } from '../processes.ts';
import type { Findings } from '../report.ts';

/** What a server with nothing to do costs, with Postgres: percent of a core. */
export async function idle(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 2 : 60;
  const polledSeconds = bench.quick ? 1 : 60;
  const server = await bench.alone('idle');
  // What a start leaves to do: the migration's pages are written, and autovacuum looks at its tables, within 60 s.
  await pause(bench.quick ? 500 : 90_000);
  const nobody = await shares(bench, server, seconds);
  const http = client(server.url, 10);
  const take = JSON.stringify({ queues: ['bench:0', 'bench:1'], size: 10, wait: 30 });
  let stopping = false;
  let failed: unknown;
  const polls = Array.from({ length: 10 }, async () => {
    while (!stopping && !failed) {
      await http.post('/v1/queue/take', take).catch((error) => {
        if (!stopping) failed ??= error; // the last polls are broken off
      });
    }
  });
  const polled = await shares(bench, server, polledSeconds);
  if (failed) throw failed;
  stopping = true;
  http.close();
  await Promise.all(polls);
  await server.stop();
  const text = ({ own, postgres }: typeof nobody) =>
    `server ${own.toFixed(2)} %, Postgres ${postgres.toFixed(2)} % of a core`;
  return {
    rows: [
      { work: 'idle, nobody connected', note: text(nobody) },
      { work: 'idle, ten workers on long polls', note: text(polled) },
    ],
    bars: [{ what: 'idle, server and Postgres', value: nobody.own + nobody.postgres, atMost: 1, unit: ' %' }],
  };
}

async function shares(bench: Bench, server: Running, seconds: number) {
  const before = { own: await serverCpu(server), postgres: await postgresCpu(bench.dataDir) };
  await pause(seconds * 1000);
  const used = (now: number, then: number) => (now - then) / (seconds * 10);
  return {
    own: used(await serverCpu(server), before.own),
    postgres: used(await postgresCpu(bench.dataDir), before.postgres),
  };
}
