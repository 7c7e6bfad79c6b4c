import type { LaneStats, LevelCounts, Queue } from '../types.ts';
import type { Column } from './output.ts';
import { span } from './times.ts';

export type QueueRow = Queue & { levels: LevelCounts[] };

export const LANES: readonly Column[] = [
  { head: 'LANE', cut: true },
  { head: 'ENDPOINT', cut: true },
  { head: 'WAITING', right: true },
  { head: 'DEFERRED', right: true },
  { head: 'RUNNING', right: true },
  { head: 'OLDEST', right: true },
  { head: 'ENDED', right: true },
];

/** A row a lane, and one for a queue that has none yet; ages and totals where the key may see them. */
export function laneRows(queues: readonly QueueRow[], stats: readonly LaneStats[] = []): unknown[][] {
  return queues.flatMap(({ queue, endpoint, paused, levels }) => {
    const named = paused ? `${endpoint} (paused)` : endpoint;
    if (levels.length === 0) return [[queue, named, 0, 0, 0, undefined, undefined]];
    return levels.map(({ level, waiting, deferred, running }) => {
      const lane = stats.find((one) => one.queue === queue && one.level === level);
      const oldest = lane?.oldest_waiting_ms;
      const age = oldest === null || oldest === undefined ? undefined : span(oldest / 1000);
      return [`${queue}:${level}`, named, waiting, deferred, running, age, lane?.total_completed_cnt];
    });
  });
}
