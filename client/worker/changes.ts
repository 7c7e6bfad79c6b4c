/** Lets any number of loops wait until something has changed. */
export function createChanges() {
  let tell: () => void = () => undefined;
  let next = new Promise<void>((resolve) => {
    tell = resolve;
  });
  return {
    happened(): void {
      tell();
      next = new Promise((resolve) => {
        tell = resolve;
      });
    },
    /** Resolves with the next change, or after `ms`. */
    async wait(ms: number): Promise<void> {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, ms);
      });
      await Promise.race([next, late]);
      clearTimeout(timer);
    },
  };
}
export type Changes = ReturnType<typeof createChanges>;
