import { Agent, request } from 'node:http';
import autocannon from 'autocannon';

export const KEY = 'bench-admin-key-0123456789';
const HEADERS = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };

/** Requests a second that were answered with 2xx, and the median latency in ms, of the same POST over and over. */
export async function hammer(url: string, body: string, connections: number, seconds: number) {
  const result = await autocannon({ url, method: 'POST', headers: HEADERS, body, connections, duration: seconds });
  if (result.non2xx + result.errors > 0) throw new Error(`${url}: ${result.non2xx} refused, ${result.errors} failed`);
  return { rate: result['2xx'] / result.duration, p50: result.latency.p50, p99: result.latency.p99 };
}

/** A keep-alive client for requests that differ. */
export function client(base: string, connections: number) {
  const agent = new Agent({ keepAlive: true, maxSockets: connections, scheduling: 'fifo' });
  const { hostname, port } = new URL(base);
  return {
    post(path: string, body: string): Promise<string> {
      return new Promise((resolve, reject) => {
        const req = request(
          {
            agent,
            hostname,
            port,
            path,
            method: 'POST',
            headers: { ...HEADERS, 'content-length': Buffer.byteLength(body) },
          },
          (res) => {
            let text = '';
            res.setEncoding('utf8').on('data', (chunk: string) => {
              text += chunk;
            });
            res.on('end', () =>
              res.statusCode === 200 ? resolve(text) : reject(new Error(`${path}: ${res.statusCode} ${text}`)),
            );
          },
        );
        req.on('error', reject).end(body);
      });
    },
    close: () => agent.destroy(),
  };
}
