import type { Logger } from 'pino';
import type { WebSocket } from 'ws';
import type { Principal } from '../auth/auth.ts';
import { invalid, TasklaneError } from '../protocol/errors.ts';
import { FEED_FRAMES, feedFrame } from '../protocol/feed.ts';
import { parseJson } from '../protocol/json.ts';
import type { Feed, FeedEvent } from '../tasks/feed.ts';

/** A reader that lags behind by so much is sent the next event when it has caught up. */
const MAX_BUFFERED = 64 * 1024;

/** Whether a frame is about the feed. The word is looked for first: an event need not be parsed twice. */
export function isFeedFrame(text: string): boolean {
  return text.includes('subscribe') && FEED_FRAMES.includes(nameOf(text));
}

/** The feed that a socket follows: one at most. */
export function createSubscription(
  socket: WebSocket,
  deps: { feed: Feed; log: Logger; principal: Principal; checkKey(): Promise<unknown> },
) {
  const { feed, log, principal, checkKey } = deps;
  let current: AbortController | undefined;
  socket.on('close', () => current?.abort());

  const send = async (text: string) => {
    if (socket.bufferedAmount < MAX_BUFFERED) socket.send(text);
    else await new Promise((resolve) => socket.send(text, resolve));
  };

  const pump = async (events: AsyncGenerator<FeedEvent>, signal: AbortSignal) => {
    try {
      for await (const { number, json } of events) {
        // The key may have been revoked since.
        await checkKey();
        if (signal.aborted) return;
        await send(`{"name":"event","id":"${number}","data":${json}}`);
      }
    } catch (error) {
      if (signal.aborted) return;
      const refused = error instanceof TasklaneError && error.status === 401;
      if (!refused) log.error({ err: error }, 'could not go on with a feed');
      socket.close(refused ? 1008 : 1011, refused ? error.message : 'the feed broke off');
    }
  };

  const subscribe = async (text: string) => {
    if (principal.role === 'worker') throw new TasklaneError(403, 'a worker key may not subscribe');
    const parsed = feedFrame.safeParse(parseJson(text));
    if (!parsed.success) throw invalid('the frame', parsed.error);
    return feed.open(parsed.data.payload ?? {}, principal);
  };

  return {
    /** Does what a frame about the feed says, and answers it. A subscription that is refused leaves the one before as it is. */
    async apply(text: string): Promise<void> {
      const name = nameOf(text);
      if (name === 'unsubscribe') {
        current?.abort();
        return send(JSON.stringify({ ok: true, name }));
      }
      try {
        const open = await subscribe(text);
        current?.abort();
        const mine = new AbortController();
        current = mine;
        if (socket.readyState !== socket.OPEN) return;
        await send(JSON.stringify({ ok: true, name }));
        void pump(open(mine.signal), mine.signal);
      } catch (error) {
        const known = error instanceof TasklaneError ? error : new TasklaneError(500, 'internal error');
        if (known.status >= 500) log.error({ err: error }, 'could not open a feed');
        await send(JSON.stringify({ ok: false, name, message: known.message }));
      }
    },
  };
}

function nameOf(text: string): string {
  try {
    return (parseJson(text) as { name: string } | null)?.name ?? '';
  } catch {
    return '';
  }
}
