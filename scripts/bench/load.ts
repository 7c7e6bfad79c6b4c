import { Connection, requestBytes } from './http.ts';
import { timesOf } from './report.ts';

/**
 * The same POST over and over from each of `connections`, which ask again when they have been answered: how many a second, and how long each
 * took in ms. Rejects at the first answer that is not 200.
 */
export async function hammer(urls: string | readonly string[], body: string, connections: number, seconds: number) {
  const targets = [urls]
    .flat()
    .map((url) => ({ url, request: requestBytes(url, 'POST', new URL(url).pathname, body) }));
  const all = await Promise.all(
    Array.from({ length: connections }, async (_, n) => {
      const { url, request } = targets[n % targets.length] as (typeof targets)[number];
      return { connection: await Connection.open(url), request };
    }),
  );
  const times: number[] = [];
  const started = performance.now();
  const until = started + seconds * 1000;
  await Promise.all(
    all.map(async ({ connection, request }) => {
      for (let sent = performance.now(); sent < until; ) {
        await connection.ask(request);
        const now = performance.now();
        times.push(now - sent);
        sent = now;
      }
      connection.close();
    }),
  );
  return { count: times.length, rate: times.length / ((performance.now() - started) / 1000), ...timesOf(times) };
}

/** A timer of Node's comes up to this late; what is sent within it counts from when it was sent. */
const TIMER_MS = 1;

/**
 * Open loop: begins `rate` calls a second, evenly, whatever becomes of those before. Gives how long each took in ms, counted from when it was
 * due, which `call` is told; so what waits behind a slow one counts, too. Rejects with the first call that does.
 */
export async function openLoop(
  rate: number,
  seconds: number,
  call: (n: number, from: number) => Promise<unknown>,
): Promise<number[]> {
  const times: number[] = [];
  const calls: Promise<void>[] = [];
  const started = performance.now();
  const total = Math.round(rate * seconds);
  let failed: unknown;
  const one = async (n: number, from: number) => {
    await call(n, from);
    times[n] = performance.now() - from;
  };
  while (calls.length < total && !failed) {
    for (;;) {
      const due = started + (calls.length * 1000) / rate;
      const now = performance.now();
      if (due > now || calls.length >= total) break;
      const n = calls.length;
      calls.push(
        one(n, now - due < TIMER_MS ? now : due).catch((error) => {
          failed ??= error;
        }),
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(calls);
  if (failed) throw failed;
  return times;
}
