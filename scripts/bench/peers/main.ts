import type { Peer } from './peer.ts';

// A peer's own process: told by its parent what to do, it answers with a rate.
const PEERS: Record<string, () => Promise<{ open(url: string): Promise<Peer> }>> = {
  'graphile-worker': () => import('./graphile-worker.ts'),
  'pg-boss': () => import('./pg-boss.ts'),
  bullmq: () => import('./bullmq.ts'),
};
const [name = '', url = ''] = process.argv.slice(2);
const { open } = (await PEERS[name]?.()) ?? {};
if (!open) throw new Error(`${name} is none of ${Object.keys(PEERS)}`);
const peer = await open(url);

process.on('message', async (message: { call: keyof Peer; args: number[] }) => {
  try {
    const call = peer[message.call] as (...args: number[]) => Promise<number>;
    process.send?.({ rate: await call(...message.args) });
    if (message.call === 'close') process.disconnect();
  } catch (error) {
    process.send?.({ error: (error as Error).message });
  }
});
process.send?.({ ready: true });
