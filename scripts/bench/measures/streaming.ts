import { setTimeout as pause } from 'node:timers/promises';
import WebSocket from 'ws';
import { ANSWER, type Bench, DATA, ENDPOINT, putOf } from '../bench.ts';
import { client, KEY } from '../http.ts';
import { openLoop } from '../load.ts';
import { type Findings, median, timesOf } from '../report.ts';

const STREAMS = 200;
const EVENTS_A_SECOND = 20;
const PUTS_A_SECOND = 300;

/** Streams that are told of events all the time; every event must come once and in order. Beside puts, at the same time and on a quiet server. */
export async function streaming(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 2 : 20;
  const events = seconds * EVENTS_A_SECOND;
  const server = await bench.alone('streaming');
  const http = client(server.url, 64);
  const put = putOf('bench', 1);
  await openLoop(PUTS_A_SECOND, 1, () => http.post('/v1/queue/put', put));
  const quiet = await openLoop(PUTS_A_SECOND, Math.min(seconds, 5), () => http.post('/v1/queue/put', put));

  const sentAt = new Map<string, number[]>();
  const delays: number[] = [];
  const streams = Array.from({ length: STREAMS }, () =>
    follow(server.url, (task, n) => delays.push(performance.now() - (sentAt.get(task)?.[n] as number))),
  );
  const tasks: string[] = [];
  for (const until = performance.now() + 30_000; tasks.length < STREAMS; ) {
    if (performance.now() > until)
      throw new Error(`only ${tasks.length} of ${STREAMS} streaming tasks came to the worker`);
    const lanes = JSON.parse(
      await http.post('/v1/queue/take', JSON.stringify({ queues: ['bench:0'], size: STREAMS, wait: 1 })),
    ) as Record<string, { task_id: string }[]>;
    for (const { task_id } of lanes['bench:0'] ?? []) tasks.push(task_id);
  }
  // A failure is thrown where it is waited for; until then it must not end the process, which would leave Postgres and the server behind.
  for (const stream of streams) stream.catch(() => undefined);
  const bus = await openBus(server.url);
  const busy = openLoop(PUTS_A_SECOND, seconds, () => http.post('/v1/queue/put', put));
  busy.catch(() => undefined);
  await openLoop(STREAMS * EVENTS_A_SECOND, seconds, async (nth) => {
    const task = tasks[nth % STREAMS] as string;
    const sent = sentAt.get(task) ?? [];
    sentAt.set(task, sent);
    sent.push(performance.now());
    bus.send('task-progress-event', { taskId: task, eventName: 'chunk', eventData: { n: sent.length - 1 } });
  });
  const beside = await busy;
  for (const task of tasks) bus.send('task-completion-event', { taskId: task, result: ANSWER });
  const told = await Promise.all(streams);
  const short = told.filter((count) => count !== events);
  if (short.length > 0)
    throw new Error(`${short.length} streams had other than ${events} events: ${short.slice(0, 5)}`);
  await bus.answered();
  bus.close();
  http.close();
  await server.stop();
  return {
    rows: [
      { work: `put, ${PUTS_A_SECOND}/s, nothing beside`, ...timesOf(quiet) },
      { work: `put, ${PUTS_A_SECOND}/s, beside the streams`, ...timesOf(beside) },
      {
        work: `event from worker to client, ${STREAMS} streams of ${EVENTS_A_SECOND}/s`,
        ...timesOf(delays),
        note: `${delays.length.toLocaleString('en')} events, each once and in order; p50 ${(median(delays) / median(quiet)).toFixed(1)} times a quiet server's put`,
      },
    ],
    bars: [{ what: 'event / put beside it, p50', value: median(delays) / median(beside), atMost: 2.5 }],
  };
}

/** Puts a streaming task and reads its events to the end, which must come in order. Gives how many came. */
async function follow(url: string, onEvent: (task: string, n: number) => void): Promise<number> {
  const answer = await fetch(`${url}/v1/queue/put`, {
    method: 'POST',
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ queue: 'bench', endpoint: ENDPOINT, data: DATA, response_mode: 'streaming' }),
  });
  const task = answer.headers.get('x-task-id');
  if (!answer.ok || !task) throw new Error(`a streaming put was answered with ${answer.status} ${await answer.text()}`);
  const decoder = new TextDecoder();
  let rest = '';
  let next = 0;
  let ended = false;
  for await (const chunk of answer.body as ReadableStream<Uint8Array>) {
    const records = (rest + decoder.decode(chunk, { stream: true })).split('\n\n');
    rest = records.pop() as string;
    for (const record of records) {
      if (record.includes('event:completion')) ended = true;
      const n = /^data:\{"n":(\d+)\}$/m.exec(record)?.[1];
      if (n === undefined) continue;
      if (Number(n) !== next) throw new Error(`${task}: event ${n} came where ${next} was due`);
      onEvent(task, next++);
    }
  }
  if (!ended) throw new Error(`${task}: the stream ended before its task`);
  return next;
}

async function openBus(url: string) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/queue/eventbus`, {
    headers: { authorization: `Bearer ${KEY}` },
    perMessageDeflate: false,
  });
  const counts = { sent: 0, answered: 0, refused: 0 };
  socket.on('message', (text) => {
    counts.answered++;
    if (!JSON.parse(text.toString()).ok) counts.refused++;
  });
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  return {
    send(name: string, payload: unknown): void {
      counts.sent++;
      socket.send(JSON.stringify({ name, payload }));
    },
    /** Until every frame has its answer; throws when one was refused, or has none after 10 seconds. */
    async answered(): Promise<void> {
      for (const until = performance.now() + 10_000; counts.answered < counts.sent; await pause(10))
        if (performance.now() > until) throw new Error(`${counts.sent - counts.answered} events had no answer`);
      if (counts.refused > 0) throw new Error(`${counts.refused} events were refused`);
    },
    close: () => socket.close(),
  };
}
