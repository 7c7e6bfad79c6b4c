/** What people use instead, measured in its own process, which calls it directly: no HTTP, as nobody puts HTTP in front of it. */
export type Peer = {
  /** Adds jobs one by one, `inFlight` calls at a time, for so long. Gives how many a second. */
  add(seconds: number, inFlight: number): Promise<number>;
  /** Adds `count` jobs by its own bulk call beforehand, then works them off as it does by default. Gives jobs a second, from the first taken to the last completed. */
  drain?(count: number): Promise<number>;
  /** The same with all that it has for going faster. */
  drainFast?(count: number): Promise<number>;
  /** As `drainFast`, with the time counted that adding took, which was over before. */
  wholeFast?(count: number): Promise<number>;
  close(): Promise<void>;
};

/** Calls `one`, `inFlight` at a time, for so long; how many a second. */
export async function repeatedly(seconds: number, inFlight: number, one: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  const until = started + seconds * 1000;
  let count = 0;
  await Promise.all(
    Array.from({ length: inFlight }, async () => {
      while (performance.now() < until) {
        await one();
        count++;
      }
    }),
  );
  return count / ((performance.now() - started) / 1000);
}

export const chunks = (count: number, size: number): number[] =>
  Array.from({ length: Math.ceil(count / size) }, (_, n) => Math.min(size, count - n * size));
