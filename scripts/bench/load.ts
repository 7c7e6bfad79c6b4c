import { connect } from 'node:net';
import { Pool } from 'undici';
import { timesOf } from './report.ts';

export const KEY = 'bench-admin-key-0123456789';
const HEADERS = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };

/**
 * The same POST over and over from each of `connections`, which ask again when they have been answered: how many a second, and how long each
 * took in ms. Throws at the first answer that is not 200. Written on sockets, because the load shares the cores with what it measures:
 * autocannon took 43 µs of CPU a request here, this takes 33, and the server itself 40.
 */
export async function hammer(urls: string | readonly string[], body: string, connections: number, seconds: number) {
  const targets = [urls].flat().map((url) => new URL(url));
  const times: number[] = [];
  const started = performance.now();
  const until = started + seconds * 1000;
  await Promise.all(
    Array.from({ length: connections }, (_, n) => repeat(targets[n % targets.length] as URL, body, until, times)),
  );
  return { count: times.length, rate: times.length / ((performance.now() - started) / 1000), ...timesOf(times) };
}

/** A POST as it goes over the wire. */
export function postBytes(base: string, path: string, body: string): Buffer {
  const lines = [
    `POST ${path} HTTP/1.1`,
    `host: ${new URL(base).host}`,
    ...Object.entries(HEADERS).map(([name, value]) => `${name}: ${value}`),
    `content-length: ${Buffer.byteLength(body)}`,
  ];
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${body}`);
}

function repeat(url: URL, body: string, until: number, times: number[]): Promise<void> {
  const { hostname, port, pathname } = url;
  const request = postBytes(url.href, pathname, body);
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true });
    let sent = 0;
    let answer: Buffer | undefined;
    const send = () => {
      sent = performance.now();
      socket.write(request);
    };
    socket.once('connect', send);
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`${hostname}:${port}${pathname}: the connection was closed`)));
    socket.on('data', (chunk: Buffer) => {
      answer = answer ? Buffer.concat([answer, chunk]) : chunk;
      const headEnd = answer.indexOf('\r\n\r\n');
      if (headEnd < 0) return;
      const text = answer.toString('latin1', 0, headEnd);
      const length = Number(/content-length: (\d+)/i.exec(text)?.[1]);
      if (answer.length < headEnd + 4 + length) return;
      if (!text.startsWith('HTTP/1.1 200')) reject(new Error(`${pathname}: ${answer.toString()}`));
      answer = undefined;
      const now = performance.now();
      times.push(now - sent);
      if (now < until) return send();
      resolve();
      socket.destroy();
    });
  });
}

/** A keep-alive client for requests that differ. (undici's pool asks twice as often as node:http's agent for the same CPU.) */
export function client(base: string, connections: number) {
  const pool = new Pool(base, { connections, headersTimeout: 0, bodyTimeout: 0 });
  const ask = async (method: 'GET' | 'POST', path: string, body: string | null, key: string): Promise<string> => {
    const answer = await pool.request({ path, method, headers: { ...HEADERS, authorization: `Bearer ${key}` }, body });
    const text = await answer.body.text();
    if (answer.statusCode !== 200) throw new Error(`${path}: ${answer.statusCode} ${text}`);
    return text;
  };
  return {
    post: (path: string, body: string, key = KEY) => ask('POST', path, body, key),
    get: (path: string) => ask('GET', path, null, KEY),
    close: () => pool.destroy(),
  };
}
export type Client = ReturnType<typeof client>;

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
