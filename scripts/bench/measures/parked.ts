import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { ANSWER, type Bench, putOf } from '../bench.ts';
import { Connection, client, requestBytes } from '../http.ts';
import type { Running } from '../processes.ts';
import { type Bar, type Findings, median, type Row, ratioOf, timesOf } from '../report.ts';

const PARKED = 10_000;
const PUTS = 1000;

/**
 * Bella-Queue's published test (BLOCKING-MODE-ASYNC-REFACTOR.md, 18 March 2026): 1,000 callback puts at once from 1,000 connections while 10,000 blocking
 * puts wait for their answers. Beside it the same puts at a server where nobody waits, in turns.
 */
export async function parked(bench: Bench): Promise<Findings> {
  const databases = [await bench.database('parked'), await bench.database('unparked')] as const;
  const [crowded, empty] = await Promise.all([bench.server(databases[0]), bench.server(databases[1])]);
  const settleMs = bench.quick ? 300 : 1000;
  const body = putOf('bench', 1);
  const runs = { crowded: [] as number[][], empty: [] as number[][] };
  for (const { url } of [crowded, empty]) await burst(url, body);
  await pause(settleMs);
  const before = await residentKb(crowded);
  const parking = await park(crowded);
  await pause(2 * settleMs);
  const each = ((await residentKb(crowded)) - before) / PARKED;
  for (let round = 0; round < bench.rounds; round++) {
    const turns = [['crowded', crowded.url] as const, ['empty', empty.url] as const];
    for (const [name, url] of round % 2 === 0 ? turns : turns.reverse()) runs[name].push(await burst(url, body));
  }
  const answered = await parking.answerAll();
  if (answered !== PARKED) throw new Error(`${answered} of ${PARKED} parked clients had their answer`);
  for (const server of [crowded, empty]) await server.stop();

  // All of them begin at once, so the slowest one's time is that of them all.
  const totals = (name: keyof typeof runs) => runs[name].map((times) => Math.max(...times));
  const row = (work: string, name: keyof typeof runs): Row => ({
    work,
    ...timesOf(runs[name].flat()),
    note: `${Math.round(median(totals(name)))} ms in all`,
  });
  const bars: Bar[] = [
    {
      what: `${PUTS} puts at once, ${PARKED.toLocaleString('en')} clients parked / none`,
      value: ratioOf(totals('crowded'), totals('empty')),
      atMost: 1.5,
    },
    { what: 'server memory of a parked client', value: each, atMost: 25, unit: ' KB' },
  ];
  return {
    rows: [
      row(
        `${PUTS} callback puts at once from ${PUTS} connections, ${PARKED.toLocaleString('en')} blocking clients parked`,
        'crowded',
      ),
      row('the same, nobody parked', 'empty'),
      {
        work: 'Bella-Queue as published, on hardware that is not named',
        mean: 512,
        p50: 619,
        p99: 656,
        note: '763 ms in all',
      },
    ],
    bars,
  };
}

/** One put from each of so many connections, all at once; how long each took. */
async function burst(url: string, body: string): Promise<number[]> {
  const connections = await Promise.all(Array.from({ length: PUTS }, () => Connection.open(url)));
  const request = requestBytes(url, 'POST', '/v1/queue/put', body);
  const started = performance.now();
  const times = await Promise.all(
    connections.map(async (connection) => {
      await connection.ask(request);
      return performance.now() - started;
    }),
  );
  for (const connection of connections) connection.close();
  return times;
}

/** Blocking clients, each with its task waiting; a worker answers them when it is asked to. */
async function park(server: Running) {
  const blocking = JSON.stringify({ ...JSON.parse(putOf('bench', 0)), response_mode: 'blocking', timeout: 600 });
  const request = requestBytes(server.url, 'POST', '/v1/queue/put', blocking);
  const answers: Promise<string>[] = [];
  for (let n = 0; n < PARKED; n += 500) {
    const opened = await Promise.all(Array.from({ length: 500 }, () => Connection.open(server.url)));
    for (const connection of opened) answers.push(connection.ask(request).finally(() => connection.close()));
  }
  const http = client(server.url, 8);
  for (const one of answers) one.catch(() => undefined); // thrown by answerAll
  for (const until = performance.now() + 60_000; ; await pause(50)) {
    const waiting = Number(await http.get('/v1/queue/bench:0/backlog'));
    if (waiting >= PARKED) break;
    if (performance.now() > until) throw new Error(`only ${waiting} of ${PARKED} blocking puts wait after a minute`);
  }
  return {
    async answerAll(): Promise<number> {
      const take = JSON.stringify({ queues: ['bench:0'], size: 500, wait: 1 });
      for (let done = 0; done < PARKED; ) {
        const lanes = JSON.parse(await http.post('/v1/queue/take', take)) as Record<string, { task_id: string }[]>;
        const results = (lanes['bench:0'] ?? []).map(({ task_id }) => ({ task_id, ...ANSWER }));
        if (results.length === 0) throw new Error(`${PARKED - done} parked tasks are gone`);
        await http.post('/v1/queue/complete', JSON.stringify({ results }));
        done += results.length;
      }
      const right = (await Promise.all(answers)).filter((body) => body === JSON.stringify(ANSWER.body));
      http.close();
      return right.length;
    },
  };
}

async function residentKb({ pid }: Running): Promise<number> {
  return Number(/^VmRSS:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]);
}
