import { Queue } from 'bullmq';
import { DATA } from '../bench.ts';
import { type Peer, repeatedly } from './peer.ts';

/** On a Redis that keeps nothing on disk: what was added is gone when it ends. */
export async function open(url: string): Promise<Peer> {
  const { hostname: host, port } = new URL(url);
  const queue = new Queue('bench', { connection: { host, port: Number(port) } });
  await queue.waitUntilReady();
  return {
    add: (seconds, inFlight) =>
      repeatedly(seconds, inFlight, () => queue.add('bench', DATA)).finally(() => queue.obliterate({ force: true })),
    close: () => queue.close(),
  };
}
