import { createHmac, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

export type Callback = { body: unknown; signed: boolean; at: number };

/** Receives callbacks on this machine, and checks their signatures with the tenant's secret. */
export async function startReceiver(secret: string) {
  const received = new Map<string, Callback>();
  const waiting = new Map<string, (callback: Callback) => void>();

  const server = createServer(async (req, res) => {
    const body = await text(req);
    const callback = { body: JSON.parse(body), signed: isSigned(req, body, secret), at: performance.now() };
    res.writeHead(204).end();
    const taskId = String(req.headers['x-task-id']);
    received.set(taskId, callback);
    waiting.get(taskId)?.(callback);
    waiting.delete(taskId);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/answers`,
    /** The task's callback, as soon as it has come; it may have come before the put's own reply. */
    async callbackOf(taskId: string, signal: AbortSignal): Promise<Callback> {
      const there = received.get(taskId);
      if (there) return there;
      signal.throwIfAborted();
      return new Promise((resolve, reject) => {
        waiting.set(taskId, resolve);
        signal.addEventListener('abort', () => reject(signal.reason), { once: true });
      });
    },
    close(): void {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** As Standard Webhooks has it: v1, and the HMAC-SHA256 of id, timestamp and body. */
function isSigned(req: IncomingMessage, body: string, secret: string): boolean {
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const told = `${req.headers['webhook-id']}.${req.headers['webhook-timestamp']}.${body}`;
  const expected = Buffer.from(`v1,${createHmac('sha256', key).update(told).digest('base64')}`);
  const given = Buffer.from(String(req.headers['webhook-signature']));
  return given.length === expected.length && timingSafeEqual(given, expected);
}
