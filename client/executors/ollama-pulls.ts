import type { Log } from '../worker/log.ts';
import type { Call } from './dialect.ts';
import { messageOf, NotAnswered, notAnswered, parsed } from './reply.ts';
import { textOf } from './reply-text.ts';
import { send } from './request.ts';
import { linesIn } from './stream.ts';

type PullProgress = { status: string; completed?: number; total?: number };
type Listener = (progress: PullProgress) => void;
type Pull = { listeners: Set<Listener>; failure: Promise<string | undefined> };

/** To check the sum of a large model takes minutes, without a word. */
const STALLED_MS = 600_000;
const EVENT_MS = 1000;
const LONGEST_LINE = 1 << 20;
const LOG_MS = 10_000;

/** Has Ollama servers pull models: each model once at a time, however many tasks wait for it. */
export function createPulls(log: Log) {
  const running = new Map<string, Pull>();
  const stopping = new AbortController();

  const pull = async (url: URL, headers: Record<string, string>, model: string, tell: Listener) => {
    const stalled = new AbortController();
    const timer = setTimeout(() => stalled.abort(new Error('the pull stands still')), STALLED_MS);
    try {
      const reply = await send('POST', url, {
        headers: { 'Content-Type': 'application/json', ...headers },
        body: JSON.stringify({ model, stream: true }),
        signal: AbortSignal.any([stalled.signal, stopping.signal]),
      });
      let last = '';
      for await (const { data } of linesIn(textOf(reply), LONGEST_LINE)) {
        timer.refresh();
        const record = parsed(data);
        const status = reply.statusCode as number;
        const error = messageOf(record);
        if (status >= 300) throw pullRefused(status, reply.headers, data) ?? new PullError(error ?? data);
        if (error !== undefined) throw new PullError(error);
        const progress = record as PullProgress;
        last = progress.status;
        const { completed, total } = progress;
        tell({ status: last, ...(completed !== undefined && { completed }), ...(total !== undefined && { total }) });
      }
      if (last !== 'success') throw new NotAnswered('failed', `the pull of ${model} broke off`);
      log(`${model} is pulled`);
      return undefined;
    } catch (error) {
      log(`${model} can't be pulled: ${(error as Error).message}`);
      if (error instanceof PullError) return error.message;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  };

  return {
    /** Resolves when it is there, or with what Ollama says is wrong. Rejects when the connection breaks, or the task's signal aborts: the pull goes on. */
    async pull(call: Call, url: URL, model: string, onProgress: Listener): Promise<string | undefined> {
      call.task.signal.throwIfAborted();
      const key = `${url.href} ${model}`;
      let one = running.get(key);
      if (one === undefined) {
        const listeners = new Set<Listener>([seldom(LOG_MS, (progress) => log(`${model}: ${inWords(progress)}`))]);
        const tell: Listener = (progress) => {
          for (const listener of listeners) listener(progress);
        };
        one = { listeners, failure: pull(url, call.headers, model, tell).finally(() => running.delete(key)) };
        running.set(key, one);
      }
      const listener = seldom(EVENT_MS, onProgress);
      one.listeners.add(listener);
      const { signal } = call.task;
      let abort: () => void = () => undefined;
      const aborted = new Promise<never>((_, reject) => {
        abort = () => reject(signal.reason);
        signal.addEventListener('abort', abort);
      });
      try {
        return await Promise.race([one.failure, aborted]);
      } finally {
        signal.removeEventListener('abort', abort);
        one.listeners.delete(listener);
      }
    },
    stop: () => stopping.abort(),
  };
}

/** A pull that fails says nothing of the server: it may be a model that nobody has. */
function pullRefused(...reply: Parameters<typeof notAnswered>): NotAnswered | undefined {
  const { outcome, message, retryAfter } = notAnswered(...reply) ?? {};
  return outcome && new NotAnswered(outcome, `the pull: ${message}`, { retryAfter });
}

/** Ollama's own words. */
class PullError extends Error {}

/** Passes on what is new, and the rest of it once in a while: a pull has several lines a second. */
function seldom(ms: number, listener: Listener): Listener {
  let status: string | undefined;
  let at = 0;
  return (progress) => {
    if (progress.status === status && Date.now() - at < ms) return;
    status = progress.status;
    at = Date.now();
    listener(progress);
  };
}

function inWords({ status, completed, total }: PullProgress): string {
  return completed === undefined || !total ? status : `${status}, ${Math.floor((completed / total) * 100)} %`;
}
