/** Calls every `ms`, never twice at once; what a call throws goes to `onError`. `stop` waits for the one that is under way. */
export function repeat(
  ms: number,
  call: () => Promise<unknown>,
  onError: (error: unknown) => void,
): { stop(): Promise<void> } {
  let running: Promise<void> | undefined;
  const timer = setInterval(() => {
    running ??= call()
      .then(() => undefined, onError)
      .finally(() => {
        running = undefined;
      });
  }, ms);
  return {
    async stop(): Promise<void> {
      clearInterval(timer);
      await running;
    },
  };
}
