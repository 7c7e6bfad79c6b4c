import { batchesOf } from './batches.ts';
import { type ClientOptions, createHttp, type RequestOptions } from './http.ts';
import { setupOf } from './setup.ts';
import { tasksOf } from './tasks.ts';

export type { BatchInput } from './batches.ts';
export { batchHasEnded } from './batches.ts';
export { type BuilderOptions, type ChatMessage, chat, embed, generate } from './build.ts';
export * from './errors.ts';
export type { CallOptions, ClientOptions, RequestOptions } from './http.ts';
export type { Page } from './page.ts';
export { hasEnded } from './task.ts';
export type { TaskStream } from './task-stream.ts';
export type { Answer } from './tasks.ts';
export type * from './types.ts';

export type Client = ReturnType<typeof createClient>;

/**
 * A client of a Tasklane server, found by `baseUrl` and `apiKey`, or by TASKLANE_URL and TASKLANE_API_KEY. It holds no connection and needs no closing.
 * Every call repeats what fails for a reason that may pass, takes an AbortSignal as `signal`, and throws ApiError (the server said no), ConnectionError
 * (it said nothing) or the signal's reason.
 */
export function createClient(options: ClientOptions = {}) {
  const http = createHttp(options);
  return {
    baseUrl: http.baseUrl,
    ...tasksOf(http),
    ...setupOf(http),
    ...batchesOf(http),
    /** Any other route: its reply's JSON. */
    request: <Reply = unknown>(method: string, path: string, request: RequestOptions = {}): Promise<Reply> =>
      http.json(method, path, request),
  };
}
