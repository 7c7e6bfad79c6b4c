import type { Bus } from './bus.ts';
import type { End } from './end.ts';

/** A dropped stream has this long to come back, here or at another server, before its task is cancelled. */
const RESUME_MS = 10_000;
/** How often a server says that it has a reader of a stream that another one looks after. */
const READING_MS = 4000;
/** The database decides whether a deadline has passed; it is asked a little after our clock says so, and again. */
const CLOCK_SLACK_MS = 20;
const ASK_AGAIN_MS = 500;
/** A timer set for longer goes off at once; a callback task may have a deadline a month off. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Ends a task when its time is over. Gives a function that calls it off, to be called once the task has ended. */
function expireAt(end: End, id: string, seconds: number): () => void {
  let off = false;
  let timer = setTimeout(expire, Math.min(Math.max(0, seconds * 1000) + CLOCK_SLACK_MS, MAX_TIMER_MS));
  async function expire() {
    await end.expire(id).catch(() => false);
    if (!off) timer = setTimeout(expire, ASK_AGAIN_MS);
  }
  return () => {
    off = true;
    clearTimeout(timer);
  };
}

/** Who reads the streaming tasks that were put here: their last reader's leaving cancels them. */
export function createReaders(end: End, bus: Bus) {
  const own = new Map<string, { here: number; leaving: NodeJS.Timeout | undefined }>();

  const cancel = (id: string) => {
    // Refused when it has ended meanwhile, which is as good.
    end.cancel(id, null).catch(() => undefined);
  };
  const waitForReader = (id: string) => {
    const stream = own.get(id);
    if (!stream) return;
    clearTimeout(stream.leaving);
    stream.leaving = setTimeout(() => {
      own.delete(id);
      cancel(id);
    }, RESUME_MS);
  };

  const arrive = (id: string, secondsLeft: number): ((ended: boolean) => void) => {
    const stream = own.get(id);
    const callOff = expireAt(end, id, secondsLeft);
    let saying: NodeJS.Timeout | undefined;
    if (stream) {
      stream.here++;
      clearTimeout(stream.leaving);
    } else {
      bus.reading(id);
      saying = setInterval(() => bus.reading(id), READING_MS);
    }
    return (ended) => {
      callOff();
      clearInterval(saying);
      if (!stream) return;
      stream.here--;
      if (ended) own.delete(id);
      else if (stream.here === 0) waitForReader(id);
    };
  };

  return {
    /** This process looks after the stream of a task that was put just now. */
    lookAfter(id: string): void {
      own.set(id, { here: 0, leaving: undefined });
    },

    /** A reader comes; gives the function that says it has left, and whether the stream had come to its end. */
    arrive,

    /** The same for the client of a put: unless it can come back, its leaving before the end cancels the task at once. */
    stay(put: { id: string; secondsLeft: number; resumable: boolean }): (ended: boolean) => void {
      const { id, secondsLeft, resumable } = put;
      if (resumable) return arrive(id, secondsLeft);
      const callOff = expireAt(end, id, secondsLeft);
      return (ended) => {
        callOff();
        if (!ended) cancel(id);
      };
    },

    /** Another server has readers of these streams. */
    elsewhere(ids: readonly string[]): void {
      for (const id of ids) if (own.get(id)?.here === 0) waitForReader(id);
    },
  };
}
