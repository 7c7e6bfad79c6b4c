import type { ServerResponse } from 'node:http';
import { TasklaneError } from '../protocol/errors.ts';
import { errorReply, send } from './route.ts';

const givenUp = new WeakSet<ServerResponse>();

/** Tells a client that waits for an answer to come again: the server stops. Where an answer has begun, nothing can be said any more. */
export function giveUp(res: ServerResponse): void {
  if (res.headersSent) return;
  givenUp.add(res);
  send(res, errorReply(res, new TasklaneError(503, 'the server is stopping', { headers: { 'Retry-After': '1' } })));
}

/** Aborts when the client goes away before it has its answer, or has been told that there will be none. */
export function hangUp(res: ServerResponse): AbortSignal {
  const controller = new AbortController();
  res.on('close', () => {
    if (!res.writableFinished || givenUp.has(res)) controller.abort();
  });
  if (res.destroyed) controller.abort();
  return controller.signal;
}
