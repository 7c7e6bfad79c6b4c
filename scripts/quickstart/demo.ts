import { contentOf, deltaOf } from './chat.ts';
import { type Checks, clip } from './checks.ts';
import type { Ask } from './input.ts';
import { ENDPOINT, IN_TURN, LIVE_FIRST, levelOf, OLDEST_FIRST, ONE_AT_A_TIME, queueOf } from './lanes.ts';
import type { Callback, startReceiver } from './receiver.ts';
import { milliseconds, show } from './show.ts';
import type { Tasklane } from './tasklane.ts';

export type Demo = {
  client: Tasklane;
  receiver: Awaited<ReturnType<typeof startReceiver>>;
  checks: Checks;
  /** Aborts when the quickstart is to stop, or waits too long. */
  signal: AbortSignal;
};

type Envelope = { status_code: number; request_id: string; body: unknown };

const WIDTH = 96;

const putTo = (lane: string, ask: Ask, more: object) => ({
  queue: queueOf(lane),
  level: levelOf(lane),
  endpoint: ENDPOINT,
  data: ask.data,
  ...more,
});

export async function askByCallback({ client, receiver, checks, signal }: Demo, ask: Ask): Promise<void> {
  const started = performance.now();
  const [live] = LIVE_FIRST.lanes;
  const put = await client.call<{ data: string }>(
    'POST',
    '/v1/queue/put',
    putTo(live, ask, { response_mode: 'callback', callback_url: receiver.url }),
    signal,
  );
  show.line('asked', clip(ask.title, WIDTH));
  show.line('reply', `${put.data}, after ${milliseconds(started)}`);
  const callback = await receiver.callbackOf(put.data, signal);
  const ok = checkCallback(checks, ask, callback);
  show.line('callback', clip(contentOf((callback.body as Envelope).body) ?? '', WIDTH));
  show.line('', verdict(ok, `signed, after ${milliseconds(started, callback.at)}`));
}

export async function askBlocking({ client, checks, signal }: Demo, ask: Ask): Promise<void> {
  const started = performance.now();
  show.line('asked', clip(ask.title, WIDTH));
  const [live] = LIVE_FIRST.lanes;
  const reply = await client.request('POST', '/v1/queue/put', putTo(live, ask, { response_mode: 'blocking' }), signal);
  const took = milliseconds(started);
  const ok = checks.check(ask, reply.json, { [`the status was ${reply.status}`]: reply.status === 200 });
  show.line('reply', clip(contentOf(reply.json) ?? JSON.stringify(reply.json), WIDTH));
  show.line('', verdict(ok, `after ${took}`));
}

export async function askStreaming({ client, checks, signal }: Demo, ask: Ask): Promise<void> {
  const started = performance.now();
  show.line('asked', clip(ask.title, WIDTH));
  show.begin('reply');
  const [live] = LIVE_FIRST.lanes;
  let streamed = '';
  let chunks = 0;
  let first = started;
  let end: Envelope | undefined;
  for await (const event of client.stream(putTo(live, ask, { response_mode: 'streaming' }), signal)) {
    if (event.name === 'chunk') {
      if (chunks++ === 0) first = performance.now();
      const piece = deltaOf(event.data);
      streamed += piece;
      show.more(piece.replace(/\s+/g, ' '));
    } else end = event.data as Envelope;
  }
  show.more('\n');
  const ok = checks.check(ask, end?.body, {
    'the pieces do not make up the answer': streamed === contentOf(end?.body),
  });
  show.line('', verdict(ok, `${chunks} pieces, the first after ${milliseconds(started, first)}`));
}

/** Many tasks at level 1 in one call, and live questions at level 0 for as long as those take. */
export async function askInBulk(demo: Demo, asks: readonly Ask[], live: readonly Ask[]): Promise<void> {
  const { client, checks, signal } = demo;
  const [liveLane, bulkLane] = LIVE_FIRST.lanes as [string, string];
  const started = performance.now();
  let done = false;
  const answered = putAll(
    demo,
    asks.map((ask) => ({ lane: bulkLane, ask })),
  );
  // Its failure is awaited below; here it only ends the loop.
  void answered
    .catch(() => undefined)
    .then(() => {
      done = true;
    });
  const liveIds: string[] = [];
  const times: number[] = [];
  let liveRight = 0;
  while (!done || times.length < live.length) {
    const ask = live[times.length % live.length] as Ask;
    const asked = performance.now();
    const reply = await client.request(
      'POST',
      '/v1/queue/put',
      putTo(liveLane, ask, { response_mode: 'blocking' }),
      signal,
    );
    times.push(performance.now() - asked);
    liveIds.push(reply.headers.get('x-task-id') ?? '');
    if (checks.check(ask, reply.json, { [`the status was ${reply.status}`]: reply.status === 200 })) liveRight++;
  }
  const { numbers, right, lastAt } = await answered;

  const lastOfBulk = Math.max(...numbers);
  const liveTasks = await Promise.all(
    liveIds.map((id) => client.call<{ result?: Envelope }>('GET', `/v1/queue/${id}`, undefined, signal)),
  );
  const ahead = liveTasks.filter((task) => numberOf(task.result) < lastOfBulk).length;
  show.line('level 1', `${right} of ${asks.length} callbacks right, the last after ${milliseconds(started, lastAt)}`);
  show.line(
    'level 0',
    `${liveRight} of ${times.length} blocking replies right, half of them within ${median(times)} ms`,
  );
  show.line('', `${ahead} of these were begun while tasks waited at level 1`);
}

/** fifo: the oldest task over all lanes. */
export async function askOldestFirst(demo: Demo, asks: readonly Ask[]): Promise<void> {
  const [a, b] = OLDEST_FIRST.lanes as [string, string];
  // a, b, b, a, a, b, b, …
  const puts = asks.map((ask, index) => ({ lane: (index >> 1) % 2 === index % 2 ? a : b, ask }));
  await showOrder(demo, 'fifo', 'the oldest first, whichever lane it is in', puts, (order) =>
    order.every((place, index) => place === index),
  );
}

/** round_robin: the lanes in turn, although all tasks of the first came first. */
export async function askInTurn(demo: Demo, asks: readonly Ask[]): Promise<void> {
  const [a, b] = IN_TURN.lanes as [string, string];
  const half = asks.length / 2;
  const puts = asks.map((ask, index) => ({ lane: index < half ? a : b, ask }));
  await showOrder(demo, 'round_robin', 'one of each lane in turn', puts, (order) =>
    order.every((place, index) => index === 0 || place < half !== (order[index - 1] as number) < half),
  );
}

/** sequential: one after the other, although two takers ask. */
export async function askOneAtATime(demo: Demo, asks: readonly Ask[]): Promise<void> {
  const [lane] = ONE_AT_A_TIME.lanes;
  const about = 'one at a time in a queue, however many take';
  await showOrder(
    demo,
    'sequential',
    about,
    asks.map((ask) => ({ lane, ask })),
    (order) => order.every((place, index) => place === index),
  );
}

async function showOrder(
  demo: Demo,
  strategy: string,
  about: string,
  puts: readonly { lane: string; ask: Ask }[],
  isRight: (order: number[]) => boolean,
): Promise<void> {
  const { numbers, right } = await putAll(demo, puts);
  const order = numbers.map((_, place) => place).sort((x, y) => (numbers[x] as number) - (numbers[y] as number));
  const ok = isRight(order);
  if (!ok) demo.checks.fail(`${strategy}: the tasks were taken in the order ${order.join(' ')}`);
  // inbox-a's third of all: a3
  const name = (place: number) =>
    ((/-(.)$/.exec(queueOf((puts[place] as { lane: string }).lane))?.[1] ?? '') + (place + 1)).padEnd(3);
  show.line(
    strategy.padEnd(16),
    `${about.padEnd(48)}${order.map(name).join(' ').trimEnd()}${ok && right === puts.length ? '' : '   WRONG'}`,
  );
}

/** Puts callback tasks in one call, and checks their answers as they come. `numbers` tell in which order they were begun. */
async function putAll({ client, receiver, checks, signal }: Demo, puts: readonly { lane: string; ask: Ask }[]) {
  const tasks = puts.map(({ lane, ask }) => putTo(lane, ask, { callback_url: receiver.url }));
  const { data: ids } = await client.call<{ data: string[] }>('POST', '/v1/queue/puts', { tasks }, signal);
  let right = 0;
  let lastAt = 0;
  const numbers = await Promise.all(
    puts.map(async ({ ask }, index) => {
      const id = ids[index] as string;
      const callback = await receiver.callbackOf(id, signal).catch(() => undefined);
      if (!callback) {
        checks.fail(`${ask.title} no callback came for ${id}`);
        return Number.NaN;
      }
      if (checkCallback(checks, ask, callback)) right++;
      lastAt = Math.max(lastAt, callback.at);
      return numberOf(callback.body as Envelope);
    }),
  );
  return { numbers, right, lastAt };
}

function checkCallback(checks: Checks, ask: Ask, { body, signed }: Callback): boolean {
  const { status_code, body: answer } = body as Envelope;
  return checks.check(ask, answer, {
    [`the status_code was ${status_code}`]: status_code === 200,
    'the signature was wrong': signed,
  });
}

/** The worker numbers its answers in the order in which it began them. */
function numberOf(result: Envelope | undefined): number {
  return Number(/^demo-(\d+)$/.exec(result?.request_id ?? '')?.[1]);
}

function verdict(ok: boolean, how: string): string {
  return ok ? `right; ${how}` : `WRONG; ${how}`;
}

function median(times: readonly number[]): number {
  return Math.round(times.toSorted((a, b) => a - b)[times.length >> 1] ?? 0);
}
