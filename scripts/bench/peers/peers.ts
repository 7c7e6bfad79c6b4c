import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Bench } from '../bench.ts';
import type { Peer } from './peer.ts';

export type PeerName = 'graphile-worker' | 'pg-boss' | 'bullmq';

/** A peer in a process of its own; undefined, with a line on the terminal, where this machine has not what it needs. */
export async function startPeer(bench: Bench, name: PeerName): Promise<Required<Peer> | undefined> {
  const url =
    name === 'bullmq'
      ? await startRedis(bench)
      : await bench.database(`peer_${name.replace('-', '_')}`, { bare: true });
  if (url === undefined) {
    console.error('redis-server was not found (Debian: apt install redis-server): BullMQ is left out');
    return undefined;
  }
  const child = fork(fileURLToPath(new URL('main.ts', import.meta.url)), [name, url]);
  const exited = once(child, 'exit');
  bench.atEnd(async () => {
    child.kill();
    await exited;
  });
  const answer = async () => {
    const [message] = (await Promise.race([
      once(child, 'message'),
      exited.then(([code]) => [{ error: `its process ended with ${code}` }]),
    ])) as [{ rate?: number; error?: string }];
    if (message.error !== undefined) throw new Error(`${name}: ${message.error}`);
    return message.rate as number;
  };
  await answer();
  const call =
    (call: keyof Peer) =>
    (...args: number[]) => {
      child.send({ call, args });
      return answer();
    };
  return {
    add: call('add'),
    drain: call('drain'),
    drainFast: call('drainFast'),
    wholeFast: call('wholeFast'),
    async close() {
      await call('close')();
      await exited;
    },
  };
}

/** Debian's redis-server without persistence, on a free port. */
async function startRedis(bench: Bench): Promise<string | undefined> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  const redis = spawn(
    'redis-server',
    ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'],
    {
      stdio: 'ignore',
    },
  );
  const started = await Promise.race([once(redis, 'error').then(() => false), once(redis, 'spawn').then(() => true)]);
  if (!started) return undefined;
  const exited = once(redis, 'exit');
  bench.atEnd(async () => {
    redis.kill('SIGTERM');
    await exited;
  });
  await pause(300);
  return `redis://127.0.0.1:${port}`;
}
