import type OpenAI from 'openai';
import type { Client } from '../../client/client.ts';
import { contentOf, deltaOf } from './chat.ts';
import { type Checks, clip } from './checks.ts';
import type { Ask } from './input.ts';
import { ENDPOINT, IN_TURN, LIVE_FIRST, levelOf, OLDEST_FIRST, ONE_AT_A_TIME, queueOf } from './lanes.ts';
import type { Callback, startReceiver } from './receiver.ts';
import { milliseconds, show } from './show.ts';

export type Demo = {
  client: Client;
  openai: OpenAI;
  receiver: Awaited<ReturnType<typeof startReceiver>>;
  checks: Checks;
  /** Aborts when the quickstart is to stop, or waits too long. */
  signal: AbortSignal;
};

export type Envelope = { status_code: number; request_id: string; body: unknown };

const WIDTH = 96;
const [LIVE] = LIVE_FIRST.lanes;

const putTo = (lane: string, ask: Ask, more: object = {}) => ({
  queue: queueOf(lane),
  level: levelOf(lane),
  endpoint: ENDPOINT,
  data: ask.data,
  ...more,
});

export async function askByCallback({ client, receiver, checks, signal }: Demo, ask: Ask): Promise<void> {
  const started = performance.now();
  const put = putTo(LIVE, ask, { callback_url: receiver.url });
  const id = await client.put(put, { signal });
  const taken = milliseconds(started);
  const callback = await receiver.callbackOf(id, signal);
  const ok = checkCallback(checks, ask, callback);
  show.line('callback', clip(`${ask.question} → ${contentOf((callback.body as Envelope).body)}`, WIDTH));
  show.line(
    '',
    verdict(ok, `the put was answered after ${taken}; posted, signed, after ${milliseconds(started, callback.at)}`),
  );
}

export async function askBlocking(demo: Demo, ask: Ask): Promise<void> {
  const started = performance.now();
  const { ok, body } = await askOnce(demo, ask);
  const took = milliseconds(started);
  show.line('blocking', clip(`${ask.question} → ${contentOf(body) ?? JSON.stringify(body)}`, WIDTH));
  show.line('', verdict(ok, `the reply to the put, after ${took}`));
}

export async function askStreaming({ client, checks, signal }: Demo, ask: Ask): Promise<void> {
  const started = performance.now();
  show.begin('streaming', `${ask.question} → `);
  let streamed = '';
  let chunks = 0;
  let first = started;
  let end: Envelope | undefined;
  for await (const event of client.stream(putTo(LIVE, ask), { signal })) {
    if (event.type === 'progress') {
      if (chunks++ === 0) first = performance.now();
      const piece = deltaOf(event.data);
      streamed += piece;
      show.more(piece.replace(/\s+/g, ' '));
    } else end = event.result;
  }
  show.more('\n');
  const ok = checks.check(ask, end?.body, {
    'the pieces do not make up the answer': streamed === contentOf(end?.body),
  });
  show.line('', verdict(ok, `${chunks} pieces, the first after ${milliseconds(started, first)}`));
}

/** A blocking put, checked. */
export async function askOnce({ client, checks, signal }: Demo, ask: Ask) {
  const { status_code: status, body, task_id: id } = await client.putAndWait(putTo(LIVE, ask), { signal });
  const ok = checks.check(ask, body, { [`the status was ${status}`]: status === 200 });
  return { ok, body, id };
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

/** sequential: one after the other, although there is room for two. */
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
  const ids = await client.puts(tasks, { signal });
  let right = 0;
  const numbers = await Promise.all(
    puts.map(async ({ ask }, index) => {
      const id = ids[index] as string;
      const callback = await receiver.callbackOf(id, signal).catch(() => undefined);
      if (!callback) {
        checks.fail(`${ask.title} no callback came for ${id}`);
        return Number.NaN;
      }
      if (checkCallback(checks, ask, callback)) right++;
      return numberOf(callback.body as Envelope);
    }),
  );
  return { numbers, right };
}

function checkCallback(checks: Checks, ask: Ask, { body, signed }: Callback): boolean {
  const { status_code, body: answer } = body as Envelope;
  return checks.check(ask, answer, {
    [`the status_code was ${status_code}`]: status_code === 200,
    'the signature was wrong': signed,
  });
}

/** The worker numbers its answers in the order in which it began them. */
export function numberOf(result: { request_id: string } | null | undefined): number {
  return Number(/^demo-(\d+)$/.exec(result?.request_id ?? '')?.[1]);
}

function verdict(ok: boolean, how: string): string {
  return ok ? `right; ${how}` : `WRONG; ${how}`;
}
