import type { Strategy } from '../types.ts';
import type { TaskExecutor } from './executor.ts';
import type { Hand } from './hand.ts';

export type RoomOptions = {
  executor: TaskExecutor;
  /** They share the executor's capacity. */
  lanes: readonly string[];
  /** What tasks that are not live leave free; a tenth, and 1 at least, by default. */
  reserve: number | undefined;
  /** How many tasks that are not live may be at hand without room. */
  prefetch: number;
  /** There may be more room. */
  onChange(): void;
};

/** While tasks wait for room: an executor need not tell when it comes. */
const LOOK_AGAIN_MS = 250;
/** A task for which no room has come by then goes back, where another worker may have some. */
const GIVE_BACK_MS = 1000;

export const queueOf = (lane: string): string => lane.slice(0, lane.lastIndexOf(':'));
/** Level 0 is live. */
const isLive = (lane: string): boolean => /:0+$/.test(lane);

export type Room = ReturnType<typeof createRoom>;

/**
 * The room of lanes that share a capacity, and the tasks at hand that wait for it. Live tasks begin before others; the others leave a reserve, so that
 * a live task finds a place when all the rest is busy with bulk work.
 */
export function createRoom({ executor, lanes, reserve, prefetch, onChange }: RoomOptions) {
  const live = lanes.filter(isLive);
  const others = lanes.filter((lane) => !isLive(lane));
  const queue = queueOf(lanes[0] as string);
  let waitingLive: Hand[] = [];
  let waitingOthers: Hand[] = [];
  let working = 0;
  let closed = false;
  let again: NodeJS.Timeout | undefined;
  const cameAt = new WeakMap<Hand, number>();

  /** Without a word of the executor, one task at a time. */
  const free = () => executor.remainingCapacity?.(queue) ?? 1 - working;
  const kept = (room: number) => {
    if (live.length === 0) return 0;
    const all = working + room;
    return Math.max(0, Math.min(reserve ?? Math.max(1, Math.ceil(all / 10)), all - 1));
  };

  const submit = (hand: Hand) => {
    hand.begun = true;
    working++;
    const fail = (error: unknown) => hand.markRetryLater({ reason: (error as Error)?.message ?? String(error) });
    try {
      void Promise.resolve(executor.submit(hand)).catch(fail).then(look);
    } catch (error) {
      fail(error);
    }
  };

  /** Begins what there is room for. */
  const look = () => {
    if (closed) return;
    while (waitingLive.length > 0 && free() >= 1) submit(next(waitingLive));
    while (waitingOthers.length > 0 && free() - kept(free()) >= 1) submit(next(waitingOthers));
    if (free() - (others.length > 0 ? kept(free()) : 0) < 1) executor.filled?.(queue);
    watch();
    onChange();
  };

  /** Gives back what waits in vain, but for what is meant to wait. */
  const watch = () => {
    if (again !== undefined || closed || waitingLive.length + waitingOthers.length === 0) return;
    again = setTimeout(() => {
      again = undefined;
      const late = performance.now() - GIVE_BACK_MS;
      for (const hand of [...waitingLive, ...waitingOthers.slice(prefetch)]) {
        if ((cameAt.get(hand) as number) < late) hand.giveBack();
      }
      look();
    }, LOOK_AGAIN_MS);
    again.unref();
  };

  const roomForLive = () => free() - waitingLive.length;
  const roomForOthers = () => {
    const room = free();
    return room - kept(room) - waitingLive.length - waitingOthers.length + prefetch;
  };

  return {
    /**
     * The takes that fill it, each with the places that it has. One asks all lanes, for as long as others may begin: live ones first, so that no place that
     * comes free goes to another while a live task waits. When only the reserve is left, one asks the live lanes alone.
     */
    takes(strategy: Strategy): { lanes: string[]; first?: string[]; strategy: Strategy; room: () => number }[] {
      if (others.length === 0) return [{ lanes: live, strategy, room: roomForLive }];
      if (live.length === 0) return [{ lanes: others, strategy, room: roomForOthers }];
      const lanes = [...live, ...others];
      const forReserve = { lanes: live, strategy, room: () => (roomForOthers() < 1 ? roomForLive() : 0) };
      const one = live.length === 1 && others.length === 1 && strategy !== 'sequential';
      // With one lane of each, the first until it is empty is all that there is to say.
      if (one || strategy === 'active_passive')
        return [{ lanes, strategy: 'active_passive', room: roomForOthers }, forReserve];
      return [{ lanes, first: live, strategy, room: roomForOthers }, forReserve];
    },
    /** How many tasks of each lane may run at once. */
    capacities(): [lane: string, capacity: number][] {
      const room = free();
      const all = working + room;
      return lanes.map((lane) => [lane, isLive(lane) ? all : all - kept(room)]);
    },
    add(hand: Hand, lane: string): void {
      cameAt.set(hand, performance.now());
      (isLive(lane) ? waitingLive : waitingOthers).push(hand);
      void hand.ended.then(() => {
        if (!hand.begun) {
          waitingLive = waitingLive.filter((other) => other !== hand);
          waitingOthers = waitingOthers.filter((other) => other !== hand);
          return;
        }
        working--;
        // By then an executor that returned at once has counted it out.
        setImmediate(look);
      });
    },
    look,
    /** Begins nothing more, and gives back what has not begun. */
    close(): void {
      closed = true;
      clearTimeout(again);
      for (const hand of [...waitingLive, ...waitingOthers]) hand.giveBack();
    },
  };
}

/** The first that has not failed before, if there is one: the first call of a server that is back should not be one that it may die of. */
function next(waiting: Hand[]): Hand {
  const fresh = waiting.findIndex(({ task }) => task.attempt === 1);
  return waiting.splice(Math.max(fresh, 0), 1)[0] as Hand;
}
