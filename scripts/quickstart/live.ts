import { askOnce, type Demo, numberOf } from './demo.ts';
import type { Ask } from './input.ts';

/** Live questions at level 0, one after the other, until `stop`; each one once at least. */
export function startLive(demo: Demo, asks: readonly Ask[]) {
  const times: number[] = [];
  const ids: string[] = [];
  let right = 0;
  let stopping = false;

  const asking = (async () => {
    while (!stopping || times.length < asks.length) {
      const asked = performance.now();
      const { ok, id } = await askOnce(demo, asks[times.length % asks.length] as Ask);
      times.push(performance.now() - asked);
      ids.push(id);
      if (ok) right++;
    }
  })();
  // Whoever calls stop hears of it.
  asking.catch(() => undefined);

  return {
    /** How long each answer took, so far. */
    times,
    /** Resolves with how many were right, and with their places in the order in which the worker began its work. */
    async stop(): Promise<{ right: number; numbers: number[] }> {
      stopping = true;
      await asking;
      const tasks = await Promise.all(ids.map((id) => demo.client.get(id, { signal: demo.signal })));
      return { right, numbers: tasks.map((task) => numberOf(task.result)) };
    },
  };
}
