import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { idHeaders } from './route.ts';

const KEEP_ALIVE_MS = 15_000;

/** Opens an event stream: headers go out at once, and a comment every 15 s keeps proxies from closing a quiet one. */
export function openSse(res: ServerResponse, headers: Record<string, string>) {
  res.writeHead(200, {
    'Content-Type': 'text/event-stream; charset=utf-8',
    'Cache-Control': 'no-cache',
    'X-Accel-Buffering': 'no',
    ...idHeaders(res),
    ...headers,
  });
  res.flushHeaders();
  const timer = setInterval(() => res.write(':\n\n'), KEEP_ALIVE_MS);
  res.on('close', () => clearInterval(timer));
  const write = async (record: string): Promise<void> => {
    if (!res.write(record) && !res.destroyed) await drained(res);
  };
  return {
    /** Writes a record of the stream as it is. Resolves when a slow reader has caught up. */
    write,
    /** The same for an event; `data` is JSON without line breaks. */
    send(event: { id?: string; name: string; data: string }): Promise<void> {
      const id = event.id === undefined ? '' : `id:${event.id}\n`;
      return write(`${id}event:${event.name}\ndata:${event.data}\n\n`);
    },
    end: () => res.end(),
    /** Writes a last record, and cuts the connection when that is on its way: a stream that ends looks whole. */
    async cut(record: string): Promise<void> {
      clearInterval(timer);
      const gone = new Promise((resolve) => res.once('close', resolve));
      const sent = new Promise((resolve) => res.write(record, resolve));
      await Promise.race([sent, gone]);
      res.destroy();
    },
  };
}

/** Resolves when a slow reader has caught up, or has gone. */
async function drained(res: ServerResponse): Promise<void> {
  const over = new AbortController();
  const waits = ['drain', 'close'].map((event) => once(res, event, { signal: over.signal }));
  // The one that is not come true would keep its listeners.
  await Promise.race(waits).finally(() => over.abort());
}
