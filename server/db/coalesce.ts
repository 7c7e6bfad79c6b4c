import { setTimeout as sleep } from 'node:timers/promises';
import { isDataError } from './errors.ts';

type Pending<Item, Result> = { item: Item; resolve(result: Result): void; reject(error: unknown): void };

/**
 * Group commit for callers of one operation: idle, an item is sent at once; busy, items collect until the call in flight returns,
 * then all that waited go in one call, up to `maxItems` and 1 MiB. Nothing waits while the system is quiet.
 * `run` gives a result an item, in order. When a call fails by its data it is split in halves, so that a bad item fails alone.
 */
export function createCoalescer<Item, Result>(options: {
  run(items: Item[]): Promise<readonly Result[]>;
  maxItems?: number;
  /** How many of `maxItems` an item counts for; 1 by default. */
  count?(item: Item): number;
  bytes?(item: Item): number;
  /** For how many ms more the items collect after a call of these that took `ms`; not at all by default. */
  rest?(items: readonly Item[], ms: number): number;
  /**
   * Whether, of many, no more go than half of all callers; those that were just answered come again. While Postgres works for one half the server answers and
   * reads the other: otherwise large and small calls take turns and wait for each other. 64 to 256 connections put 1.1 times as much over one server, 1.03 over
   * two, 256 complete 1.07 times as much; over four, which fill the cores with calls that are too small already, it is 0.95.
   */
  inHalves?(): boolean;
}): (item: Item) => Promise<Result> {
  const { run, maxItems = 500, count = () => 1, bytes = () => 0, rest = () => 0, inHalves = () => false } = options;
  const maxBytes = 1 << 20;
  const halvesFrom = 32;
  let waiting: Pending<Item, Result>[] = [];
  let busy = false;

  const cut = (most: number) => {
    let items = 0;
    let size = 0;
    let end = 0;
    for (; end < waiting.length && end < most; end++) {
      const { item } = waiting[end] as Pending<Item, Result>;
      items += count(item);
      size += bytes(item);
      if (end > 0 && (items > maxItems || size > maxBytes)) break;
    }
    const batch = end === waiting.length ? waiting : waiting.slice(0, end);
    waiting = end === waiting.length ? [] : waiting.slice(end);
    return batch;
  };

  const itemsOf = (batch: readonly Pending<Item, Result>[]) => batch.map(({ item }) => item);

  const send = async (batch: Pending<Item, Result>[], items = itemsOf(batch)): Promise<void> => {
    try {
      const results = await run(items);
      for (const [index, pending] of batch.entries()) pending.resolve(results[index] as Result);
    } catch (error) {
      if (batch.length === 1 || !isDataError(error)) {
        for (const pending of batch) pending.reject(error);
        return;
      }
      const middle = batch.length >> 1;
      await send(batch.slice(0, middle));
      await send(batch.slice(middle));
    }
  };

  const drain = async () => {
    busy = true;
    let most = maxItems;
    while (waiting.length > 0) {
      const batch = cut(most);
      const items = itemsOf(batch);
      const started = performance.now();
      await send(batch, items);
      const ms = rest(items, performance.now() - started);
      if (ms > 0) await sleep(ms);
      most = inHalves() ? Math.max(halvesFrom, Math.ceil((waiting.length + batch.length) / 2)) : maxItems;
    }
    busy = false;
  };

  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      if (!busy) void drain();
    });
}
