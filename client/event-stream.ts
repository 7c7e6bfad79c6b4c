import { EventSourceParserStream } from 'eventsource-parser/stream';
import { ApiError } from './errors.ts';
import { backoff, type Http, type RequestOptions, sleep } from './http.ts';

export type ServerSentEvent = { id: string | undefined; event: string | undefined; data: string };

/** The events of a reply. `next` gives undefined when the connection ends; `close` hangs up. */
function readEvents(reply: Response) {
  const reader = reply.body
    ?.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array<ArrayBuffer>>)
    .pipeThrough(new EventSourceParserStream())
    .getReader();
  return {
    async next(): Promise<ServerSentEvent | undefined> {
      const read = await reader?.read();
      return read?.value && { id: read.value.id, event: read.value.event, data: read.value.data };
    },
    close: () => reader?.cancel().catch(() => undefined),
  };
}

/**
 * The events of a stream over as many connections as it takes: where one breaks, the next goes on after the last event. `isLast` tells the event that
 * ends it; a stream that has none goes on until it is left. With `tellsOpen`, each connection begins with an event `open` of our own.
 * Throws ApiError where the server refuses it, ConnectionError after as many failures in a row as the client has retries.
 */
export async function* resumable(
  http: Http,
  path: string,
  options: RequestOptions & {
    lastEventId?: string | undefined;
    /** The reply that is there already. */
    first?: Response | undefined;
    isLast?: (event: ServerSentEvent) => boolean;
    tellsOpen?: boolean;
  },
): AsyncGenerator<ServerSentEvent, void> {
  const { signal } = options;
  let { lastEventId, first } = options;
  for (let failed = 0; ; ) {
    let events: ReturnType<typeof readEvents> | undefined;
    try {
      const headers = {
        ...options.headers,
        Accept: 'text/event-stream',
        ...(lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId }),
      };
      events = readEvents(first ?? (await http.open('GET', path, { ...options, headers })));
      if (options.tellsOpen) yield { id: undefined, event: 'open', data: '' };
      for (let event = await events.next(); event !== undefined; event = await events.next()) {
        failed = 0;
        lastEventId = event.id ?? lastEventId;
        yield event;
        if (options.isLast?.(event)) return;
      }
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof ApiError || failed >= http.maxRetries) throw error;
    } finally {
      await events?.close();
    }
    first = undefined;
    await sleep(backoff(failed++), signal);
  }
}
