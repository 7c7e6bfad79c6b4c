import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Delivery = {
  path: string;
  headers: IncomingHttpHeaders;
  /** As it came. */
  body: string;
  answer(status: number, headers?: Record<string, string>): void;
};

export type Receiver = Awaited<ReturnType<typeof startReceiver>>;

/** A receiver of callbacks on a port of its own, or on `port`: each delivery waits until the test has answered it. */
export async function startReceiver(port = 0) {
  const arrived: Delivery[] = [];
  const waiting: ((delivery: Delivery) => void)[] = [];
  let count = 0;
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request.setEncoding('utf8')) body += chunk;
    count++;
    const delivery: Delivery = {
      path: request.url ?? '',
      headers: request.headers,
      body,
      answer: (status, headers = {}) => response.writeHead(status, headers).end(),
    };
    const next = waiting.shift();
    if (next) next(delivery);
    else arrived.push(delivery);
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const bound = (server.address() as AddressInfo).port;
  return {
    port: bound,
    url: (path = '/') => `http://127.0.0.1:${bound}${path}`,
    /** How many deliveries have come so far. */
    get count() {
      return count;
    },
    /** The next delivery, in the order in which they come. */
    next: (): Promise<Delivery> => {
      const there = arrived.shift();
      return there ? Promise.resolve(there) : new Promise((resolve) => waiting.push(resolve));
    },
    async close(): Promise<void> {
      if (!server.listening) return;
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
