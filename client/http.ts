import { findServer, type ServerOptions } from './environment.ts';
import { ApiError, apiError, ConnectionError, codeOf } from './errors.ts';

export type ClientOptions = ServerOptions & {
  /** Repeats of a request that failed for a reason that may pass; 5 by default, up to about 8 seconds in all. */
  maxRetries?: number | undefined;
  /** Milliseconds until a server that does not answer is given up; 60,000 by default. Waiting for a task has its own time. */
  timeoutMs?: number | undefined;
  /** Sent with every request. */
  headers?: Record<string, string> | undefined;
  fetch?: typeof globalThis.fetch | undefined;
};

/** Every call takes it: aborting `signal` rejects the call with the signal's reason. */
export type CallOptions = { signal?: AbortSignal | undefined };

export type RequestOptions = CallOptions & {
  /** Sent as JSON; a string is JSON already, and a form is sent as it is. */
  body?: unknown;
  query?: Record<string, string | number | boolean | null | undefined> | undefined;
  headers?: Record<string, string> | undefined;
  /** Whether doing it twice is doing it once, so that it may be repeated when nobody knows whether it was done. By default of all methods but POST. */
  repeatable?: boolean | undefined;
  /** `none` for what may take as long as it takes. */
  timeoutMs?: number | 'none' | undefined;
};

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;
/** A server that asks for more is told on to the caller. */
const LONGEST_RETRY_AFTER_MS = 60_000;
/** What lasted this long was no refusal: it begins to count anew. */
const LASTED_MS = 30_000;

export type Http = ReturnType<typeof createHttp>;

/** The one way to the server: adds the key, repeats what may be repeated, and makes errors of replies. */
export function createHttp(options: ClientOptions) {
  const { baseUrl, apiKey } = findServer(options);
  const maxRetries = options.maxRetries ?? 5;
  const usualTimeoutMs = options.timeoutMs ?? 60_000;
  const call = options.fetch ?? globalThis.fetch;

  const once = async (
    method: string,
    url: string,
    { body, headers, signal }: RequestOptions,
    timeoutMs: number | 'none',
  ) => {
    const form = body instanceof FormData;
    const late = timeoutMs === 'none' ? undefined : new AbortController();
    const timer = late && setTimeout(() => late.abort(new Error('timed out')), timeoutMs as number);
    const signals = [late?.signal, signal].filter((one) => one !== undefined);
    try {
      const reply = await call(url, {
        method,
        headers: {
          ...(apiKey === undefined ? {} : { Authorization: `Bearer ${apiKey}` }),
          ...(body === undefined || form ? {} : { 'Content-Type': 'application/json' }),
          ...options.headers,
          ...headers,
        },
        ...(body === undefined ? {} : { body: form || typeof body === 'string' ? body : JSON.stringify(body) }),
        ...(signals.length > 0 && { signal: AbortSignal.any(signals) }),
      });
      if (!reply.ok) throw apiError(reply.status, reply.headers, parsed(await reply.text()));
      return reply;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof ApiError) throw error;
      throw new ConnectionError(url, late?.signal.aborted ? late.signal.reason : error);
    } finally {
      clearTimeout(timer);
    }
  };

  /** The reply, whose body has not been read. Throws ApiError, ConnectionError, or the signal's reason. */
  const open = async (method: string, path: string, request: RequestOptions = {}): Promise<Response> => {
    const url = baseUrl + path + queryOf(request.query);
    const repeatable = request.repeatable ?? method !== 'POST';
    for (let tried = 0; ; tried++) {
      request.signal?.throwIfAborted();
      const began = Date.now();
      try {
        return await once(method, url, request, request.timeoutMs ?? usualTimeoutMs);
      } catch (error) {
        const pause = pauseAfter(error, tried, repeatable);
        if (Date.now() - began > LASTED_MS) tried = 0;
        if (pause === undefined || tried >= maxRetries) throw error;
        await sleep(pause, request.signal);
      }
    }
  };

  return {
    baseUrl,
    apiKey,
    maxRetries,
    open,
    /** The reply's JSON, or undefined where there is none. */
    async json<Reply>(method: string, path: string, request: RequestOptions = {}): Promise<Reply> {
      const reply = await open(method, path, request);
      return (await bodyOf(reply)) as Reply;
    },
  };
}

/** The body of a reply as JSON, undefined when it is empty. */
export async function bodyOf(reply: Response): Promise<unknown> {
  const text = await reply.text();
  return text === '' ? undefined : parsed(text);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Milliseconds until it may be tried again; undefined when it must not be. */
function pauseAfter(error: unknown, tried: number, repeatable: boolean): number | undefined {
  if (error instanceof ConnectionError) {
    // undici gives up waiting for headers after 300 s; a task that is waited for may take longer.
    if (repeatable && codeOf(error.cause) === 'UND_ERR_HEADERS_TIMEOUT') return 0;
    return repeatable || error.unsent ? backoff(tried) : undefined;
  }
  if (!(error instanceof ApiError)) return undefined;
  const { status, retryAfter } = error;
  // A task's own ending, or its worker's answer; not a gateway's.
  if (error.taskId !== undefined) return undefined;
  const refused = status === 429;
  const passing = status === 502 || status === 503 || status === 504;
  if (!refused && !(passing && repeatable)) return undefined;
  if (retryAfter === undefined) return backoff(tried);
  return retryAfter * 1000 > LONGEST_RETRY_AFTER_MS ? undefined : Math.max(retryAfter * 1000, backoff(tried));
}

/** Exponential, half of it by chance ("equal jitter": Exponential Backoff And Jitter, AWS Architecture Blog, 2015). */
export function backoff(tried: number): number {
  const pause = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** tried);
  return pause / 2 + (Math.random() * pause) / 2;
}

/** Rejects with the signal's reason when it aborts. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const end = () => {
      signal?.removeEventListener('abort', abort);
      clearTimeout(timer);
    };
    const abort = () => {
      end();
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      end();
      resolve();
    }, ms);
    signal?.addEventListener('abort', abort, { once: true });
  });
}

function queryOf(query: RequestOptions['query']): string {
  const pairs = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null);
  if (pairs.length === 0) return '';
  return `?${new URLSearchParams(pairs.map(([name, value]): [string, string] => [name, String(value)]))}`;
}
