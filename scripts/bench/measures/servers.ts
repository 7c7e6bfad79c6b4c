import { type Bench, putOf } from '../bench.ts';
import { hammer } from '../load.ts';
import { type Findings, median, ratioOf } from '../report.ts';

const COUNTS = [1, 2, 4];
const AT_LEAST: Record<number, number> = { 2: 1, 4: 0.85 };

/** The same puts, over one server process, over two and over four, on one database each. */
export async function servers(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 0.4 : 4;
  const body = putOf('bench');
  const fleets = [];
  for (const count of COUNTS) {
    const database = await bench.database(`servers_${count}`);
    const running = await Promise.all(Array.from({ length: count }, () => bench.server(database)));
    fleets.push({ count, running, urls: running.map(({ url }) => `${url}/v1/queue/put`), rates: [] as number[] });
  }
  // As long for each server: four that share the puts of one are compiled a quarter as far.
  for (const { count, urls } of fleets) await hammer(urls, body, 256, bench.quick ? 0.7 : 2 * count);
  for (let round = 0; round < bench.rounds; round++) {
    for (const { urls, rates } of fleets) rates.push((await hammer(urls, body, 256, seconds)).rate);
  }
  for (const { running } of fleets) for (const server of running) await server.stop();
  const alone = fleets[0]?.rates ?? [];
  return {
    rows: fleets.map(({ count, rates }) => ({
      work: `put, 256 connections over ${count} server processes`,
      rate: median(rates),
    })),
    bars: fleets.slice(1).map(({ count, rates }) => ({
      what: `put, ${count} server processes / one`,
      value: ratioOf(rates, alone),
      atLeast: AT_LEAST[count] as number,
    })),
  };
}
