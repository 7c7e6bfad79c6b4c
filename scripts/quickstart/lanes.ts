/** The lanes that the demo worker takes from, and how: what the quickstart registers and sends to. */

export const ENDPOINT = '/v1/chat/completions';

export type Taking = {
  strategy: 'fifo' | 'round_robin' | 'active_passive' | 'sequential';
  lanes: readonly [string, ...string[]];
  /** How many tasks at a time. */
  concurrency: number;
};

/** Live questions first, and the lines of batches in what capacity they leave. */
export const LIVE_FIRST: Taking = {
  strategy: 'active_passive',
  lanes: ['documents:0', 'documents:1'],
  concurrency: 10,
};
export const OLDEST_FIRST: Taking = { strategy: 'fifo', lanes: ['inbox-a:0', 'inbox-b:0'], concurrency: 1 };
export const IN_TURN: Taking = { strategy: 'round_robin', lanes: ['team-a:1', 'team-b:1'], concurrency: 1 };
/** Room for two, and yet one task at a time. */
export const ONE_AT_A_TIME: Taking = { strategy: 'sequential', lanes: ['ledger:0'], concurrency: 2 };

export const TAKINGS = [LIVE_FIRST, OLDEST_FIRST, IN_TURN, ONE_AT_A_TIME];

export const queueOf = (lane: string): string => lane.slice(0, lane.lastIndexOf(':'));
export const levelOf = (lane: string): number => Number(lane.slice(lane.lastIndexOf(':') + 1));

export const QUEUES = [...new Set(TAKINGS.flatMap((taking) => taking.lanes.map(queueOf)))];
