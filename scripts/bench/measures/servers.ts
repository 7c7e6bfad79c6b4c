import { type Bench, putOf, register } from '../bench.ts';
import { client } from '../http.ts';
import { hammer } from '../load.ts';
import type { Running } from '../processes.ts';
import { type Findings, median, ratioOf } from '../report.ts';
import { single } from './lives.ts';

const COUNTS = [1, 2, 4];
const AT_LEAST: Record<number, number> = { 2: 1, 4: 0.85 };

/** The same puts and whole lives, over one server process, over two and over four, on one database each. */
export async function servers(bench: Bench): Promise<Findings> {
  const seconds = bench.quick ? 0.4 : 4;
  const body = putOf('bench');
  const fleets = [];
  for (const count of COUNTS) {
    const database = await bench.database(`servers_${count}`);
    const running = await Promise.all(Array.from({ length: count }, () => bench.server(database)));
    await register((running[0] as Running).url, 'single');
    fleets.push({
      count,
      running,
      urls: running.map(({ url }) => `${url}/v1/queue/put`),
      https: running.map(({ url }) => client(url, 400)),
      puts: [] as number[],
      lives: [] as number[],
    });
  }
  // As long for each server: four that share the puts of one are compiled a quarter as far.
  for (const { count, urls } of fleets) await hammer(urls, body, 256, bench.quick ? 0.7 : 2 * count);
  for (let round = 0; round < bench.rounds; round++) {
    for (const { urls, puts } of fleets) puts.push((await hammer(urls, body, 256, seconds)).rate);
  }
  for (let round = -1; round < bench.rounds; round++) {
    for (const { count, https, lives } of fleets) {
      const rate = await single(https, (bench.quick ? 500 : 16_000) * (round < 0 ? count : 1), 64);
      if (round >= 0) lives.push(rate);
    }
  }
  for (const { running, https } of fleets) {
    for (const http of https) http.close();
    for (const server of running) await server.stop();
  }
  const alone = fleets[0]?.puts ?? [];
  return {
    rows: [
      ...fleets.map(({ count, puts }) => ({
        work: `put, 256 connections over ${count} server processes`,
        rate: median(puts),
      })),
      ...fleets.map(({ count, lives }) => ({
        work: `whole life, one by one, over ${count} server processes`,
        rate: median(lives),
      })),
    ],
    bars: fleets.slice(1).map(({ count, puts }) => ({
      what: `put, ${count} server processes / one`,
      value: ratioOf(puts, alone),
      atLeast: AT_LEAST[count] as number,
    })),
  };
}
