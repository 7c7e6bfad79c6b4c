import autocannon from 'autocannon';
import { Pool } from 'undici';

export const KEY = 'bench-admin-key-0123456789';
const HEADERS = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };

/** Requests a second that were answered with 2xx, and the median latency in ms, of the same POST over and over. */
export async function hammer(url: string, body: string, connections: number, seconds: number) {
  const result = await autocannon({ url, method: 'POST', headers: HEADERS, body, connections, duration: seconds });
  if (result.non2xx + result.errors > 0) throw new Error(`${url}: ${result.non2xx} refused, ${result.errors} failed`);
  return { rate: result['2xx'] / result.duration, p50: result.latency.p50, p99: result.latency.p99 };
}

/** A keep-alive client for requests that differ. (undici's pool asks twice as often as node:http's agent for the same CPU.) */
export function client(base: string, connections: number) {
  const pool = new Pool(base, { connections });
  return {
    async post(path: string, body: string): Promise<string> {
      const answer = await pool.request({ path, method: 'POST', headers: HEADERS, body });
      const text = await answer.body.text();
      if (answer.statusCode !== 200) throw new Error(`${path}: ${answer.statusCode} ${text}`);
      return text;
    },
    close: () => pool.destroy(),
  };
}
