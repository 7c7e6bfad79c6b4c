import type { LevelCounts } from '../types.ts';
import type { Output, Style } from './output.ts';

type Lane = LevelCounts & { queue: string };
type Cause = { lane: string; rule: string; reason: string };

/** A lane that has something in it which is not answered, or whose upstreams don't work. */
export const isTroubled = ({ rule, waiting, deferred, running }: LevelCounts): boolean =>
  rule !== null && (waiting + deferred + running > 0 || rule.startsWith('upstream'));

export const causesOf = (lanes: readonly Lane[]): Cause[] =>
  lanes.filter(isTroubled).map(({ queue, level, rule, reason }) => ({
    lane: `${queue}:${level}`,
    rule: rule as string,
    reason: reason as string,
  }));

/** A pause and a limit are somebody's will. */
export const styleOf = (rule: string | null): Style => (rule === 'paused' || rule === 'limit' ? 'yellow' : 'red');

/** Why, a line each, below what was shown. */
export function showCauses(out: Output, lanes: readonly Lane[]): void {
  const causes = causesOf(lanes);
  if (causes.length === 0) return;
  out.print('');
  for (const { lane, rule, reason } of causes) out.print(out.paint(styleOf(rule), `! ${lane}: ${reason}`));
}

export const lanesOf = (queues: readonly { queue: string; levels: LevelCounts[] }[]): Lane[] =>
  queues.flatMap(({ queue, levels }) => levels.map((level) => ({ queue, ...level })));
