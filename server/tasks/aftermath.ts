import type { EndedTask } from '../db/end-tasks.ts';
import type { End } from './end.ts';
import type { Lanes } from './lanes.ts';

type Row = EndedTask & { outcome: string; rank: number };

/** Tells everyone whom it concerns what became of tasks that nobody called for. */
export function createAftermath(lanes: Lanes, end: End) {
  return (rows: readonly Row[]): void => {
    const of = (outcome: string) => rows.filter((row) => row.outcome === outcome);
    lanes.waiting(of('waiting'));
    lanes.moved(of('moved'));
    end.announceUnanswered(of('dead'), 'dead');
    end.announceUnanswered(of('expired'), 'expired');
    for (const { lane, limited } of of('freed')) lanes.freed(lane, limited);
  };
}
export type Aftermath = ReturnType<typeof createAftermath>;
