import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

type Pair = { client: Socket; postgres: Socket; silent: boolean; delayMs: number };

/** A TCP proxy before Postgres that does to its connections what networks do. New ones work, unless `refuse` or `hang` is said. */
export async function startPostgresProxy(target: string) {
  const { hostname, port } = new URL(target);
  const pairs = new Set<Pair>();
  const hung = new Set<Socket>();
  let newOnes: 'work' | 'refuse' | 'hang' = 'work';

  const pipe = (pair: Pair, from: Socket, to: Socket) => {
    // However late, in the order in which it was sent.
    let last = Promise.resolve();
    let waiting = 0;
    const pass = (act: () => void) => {
      const go = () => {
        if (!pair.silent) act();
      };
      if (waiting === 0 && pair.delayMs === 0) return go();
      const at = performance.now() + pair.delayMs;
      waiting++;
      last = last
        .then(() => sleep(Math.max(0, at - performance.now())))
        .then(() => {
          waiting--;
          go();
        });
    };
    from.on('data', (bytes) => pass(() => to.write(bytes)));
    from.on('error', () => undefined);
    from.on('end', () => pass(() => to.end()));
    from.on('close', () => {
      pairs.delete(pair);
      if (!pair.silent) to.destroy();
    });
  };
  const server = createServer({ allowHalfOpen: true }, (client) => {
    if (newOnes === 'refuse') return client.destroy();
    if (newOnes === 'hang') {
      hung.add(client.on('error', () => undefined));
      return undefined;
    }
    const postgres = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
    const pair = { client, postgres, silent: false, delayMs: 0 };
    pairs.add(pair);
    pipe(pair, client, postgres);
    pipe(pair, postgres, client);
    return undefined;
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address() as AddressInfo;
  const some = (share: number) => [...pairs].filter(() => Math.random() < share);

  return {
    url: Object.assign(new URL(target), { hostname: '127.0.0.1', port: `${address.port}` }).href,
    get open(): number {
      return pairs.size;
    },
    /** What is sent from now on over a share of the open connections gets lost. Postgres knows that they are over, if `known`; the client does not. */
    swallow(share = 1, known = true): void {
      for (const pair of some(share)) {
        pair.silent = true;
        if (known) pair.postgres.destroy();
        hung.add(pair.client);
      }
    },
    /** All that is sent over a share of the open connections comes so much later. */
    delay(ms: number, share = 1): void {
      for (const pair of some(share)) pair.delayMs = ms;
    },
    /** Postgres's side of a share of the open connections ends, and the client's stays as it is. */
    halfClose(share = 1): void {
      for (const pair of some(share)) pair.client.end();
    },
    cut(share = 1): void {
      for (const { client, postgres } of some(share)) for (const socket of [client, postgres]) socket.destroy();
    },
    /** What becomes of connections that are opened from now on. */
    newConnections(what: 'work' | 'refuse' | 'hang'): void {
      newOnes = what;
      if (what !== 'hang') for (const socket of hung) socket.destroy();
    },
    async stop(): Promise<void> {
      for (const { client, postgres } of pairs) for (const socket of [client, postgres]) socket.destroy();
      for (const socket of hung) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
export type PostgresProxy = Awaited<ReturnType<typeof startPostgresProxy>>;
