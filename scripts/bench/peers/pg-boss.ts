import { PgBoss } from 'pg-boss';
import { DATA } from '../bench.ts';
import { chunks, type Peer, repeatedly } from './peer.ts';

/** With its pool of 10; 4 to 64, and pools of up to 32, were no faster. */
const WORKERS = 16;

export async function open(connectionString: string): Promise<Peer> {
  // Its upkeep is left out: it would only make it slower.
  const boss = new PgBoss({ connectionString, max: 10, supervise: false, schedule: false });
  boss.on('error', (error) => {
    throw error;
  });
  await boss.start();
  await boss.createQueue('bench');
  await boss.createQueue('life');
  return {
    add: (seconds, inFlight) => repeatedly(seconds, inFlight, () => boss.send('bench', DATA)),
    async drain(count) {
      for (const size of chunks(count, 1000))
        await boss.insert(
          'life',
          Array.from({ length: size }, () => ({ data: DATA })),
        );
      const done = new Set<string>();
      const started = performance.now();
      await Promise.all(
        Array.from({ length: WORKERS }, async () => {
          while (done.size < count) {
            const [job] = await boss.fetch('life', { batchSize: 1 });
            if (!job) return;
            await boss.complete('life', job.id);
            done.add(job.id);
          }
        }),
      );
      if (done.size !== count) throw new Error(`pg-boss completed ${done.size} of ${count} jobs`);
      return count / ((performance.now() - started) / 1000);
    },
    close: () => boss.stop({ graceful: false }),
  };
}
