import { readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { ANSWER, type Bench, putOf } from '../bench.ts';
import { client, postBytes } from '../load.ts';
import type { Running } from '../processes.ts';
import { type Bar, type Findings, median, type Row, ratioOf, timesOf } from '../report.ts';

const PARKED = 10_000;
const PUTS = 1000;

/**
 * Bella-Queue's published test (BLOCKING-MODE-ASYNC-REFACTOR.md, 18 March 2026): 1,000 callback puts at once from 1,000 connections while 10,000 blocking
 * puts wait for their answers. Beside it the same puts at a server where nobody waits, in turns.
 */
export async function parked(bench: Bench): Promise<Findings> {
  const crowded = await bench.server(await bench.database('parked'));
  const empty = await bench.server(await bench.database('unparked'));
  const body = putOf('bench', 1);
  const runs = { crowded: [] as number[][], empty: [] as number[][] };
  for (const { url } of [crowded, empty]) await burst(url, body);
  await pause(1000);
  const before = await residentKb(crowded);
  const parking = await park(crowded);
  await pause(2000);
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
  const sockets = await open(url, PUTS);
  const request = postBytes(url, '/v1/queue/put', body);
  const started = performance.now();
  const times = await Promise.all(
    sockets.map(async (socket) => {
      const answer = await ask(socket, request);
      if (!answer.startsWith('HTTP/1.1 200')) throw new Error(answer);
      return performance.now() - started;
    }),
  );
  for (const socket of sockets) socket.destroy();
  return times;
}

/** Blocking clients, each with its task waiting; a worker answers them when it is asked to. */
async function park(server: Running) {
  const blocking = JSON.stringify({ ...JSON.parse(putOf('bench', 0)), response_mode: 'blocking', timeout: 600 });
  const request = postBytes(server.url, '/v1/queue/put', blocking);
  const answers: Promise<string>[] = [];
  for (let n = 0; n < PARKED; n += 500) {
    for (const socket of await open(server.url, 500))
      answers.push(ask(socket, request).finally(() => socket.destroy()));
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
      const right = (await Promise.all(answers)).filter(
        (text) => text.startsWith('HTTP/1.1 200') && text.endsWith(JSON.stringify(ANSWER.body)),
      );
      await http.close();
      return right.length;
    },
  };
}

async function open(url: string, count: number): Promise<Socket[]> {
  const { hostname: host, port } = new URL(url);
  return Promise.all(
    Array.from({ length: count }, () => {
      const socket = connect({ host, port: Number(port), noDelay: true });
      return new Promise<Socket>((resolve, reject) => {
        socket.once('connect', () => resolve(socket));
        socket.once('error', (error: NodeJS.ErrnoException) =>
          reject(error.code === 'EMFILE' ? new Error('too few files may be open here: ulimit -n 20000') : error),
        );
      });
    }),
  );
}

/** The whole answer to a request. */
function ask(socket: Socket, request: Buffer): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('a connection was closed')));
    socket.on('data', (chunk) => {
      answer += chunk;
      const head = answer.indexOf('\r\n\r\n');
      const length = Number(/content-length: (\d+)/i.exec(answer)?.[1]);
      if (head >= 0 && answer.length >= head + 4 + length) resolve(answer);
    });
    socket.write(request);
  });
}

async function residentKb({ pid }: Running): Promise<number> {
  return Number(/^VmRSS:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]);
}
