/**
 * A function that has `call` made soon, and says nothing of how it went: at once or, while one is under way, once more afterwards, however often
 * it was asked for meanwhile. What a call throws goes to `onError`.
 */
export function soon(call: () => Promise<unknown>, onError: (error: unknown) => void): () => void {
  let busy = false;
  let again = false;
  const run = async () => {
    busy = true;
    do {
      again = false;
      await call().catch(onError);
    } while (again);
    busy = false;
  };
  return () => {
    if (busy) again = true;
    else void run();
  };
}
