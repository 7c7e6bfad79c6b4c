import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import {
  CLAIM_MS,
  claimCallbacks,
  type DueCallback,
  nextCallbackAt,
  type Settled,
  settleCallbacks,
} from '../db/callbacks.ts';
import { createCoalescer } from '../db/coalesce.ts';
import type { Database } from '../db/open.ts';
import type { AddressRule } from './address.ts';
import { attempt } from './attempt.ts';

/** Many, since a receiver that does not answer holds its place for 30 s. */
const AT_ONCE = 200;
const STOP_MS = 2000;
const SEND_MS = 30_000;
/** A send is over so long before its claim. */
const SLACK_MS = 2000;

/**
 * Sends callbacks, and events to webhook endpoints. Each is claimed for longer than a send may take, so other servers may do the same beside, and what a dying
 * one had claimed is sent again: receivers know a repeat by its `webhook-id`.
 */
export function createDelivery(deps: {
  db: Database;
  rule: AddressRule;
  log: Logger;
  /** Asks for a look at a time (epoch ms of the database), in place of the one asked for before. */
  lookAt(at: number): Promise<void>;
}) {
  const { db, rule, log, lookAt } = deps;
  const sending = new Set<Promise<void>>();
  let looking = false;
  let again = false;
  let more = false;
  let stopped = false;

  const settle = createCoalescer<Settled, undefined>({
    async run(settled) {
      await settleCallbacks(db, settled);
      await askAgain().catch((error) =>
        log.warn({ err: error }, 'could not ask for the next delivery; it will be found'),
      );
      return settled.map(() => undefined);
    },
  });

  const askAgain = async () => {
    const next = more || stopped ? undefined : await nextCallbackAt(db);
    if (next !== undefined) await lookAt(next);
  };

  const deliver = async (callback: DueCallback, untilMs: number) => {
    const left = untilMs - performance.now();
    // The claim was so long on its way that there is no time for a send: it lapses.
    if (left <= 0) return;
    const outcome = await attempt(callback, rule, Math.min(SEND_MS, left));
    if (!outcome.ok) {
      const { webhook_id: webhookId, task_id: taskId, attempts } = callback;
      log.info({ webhookId, taskId, attempt: attempts, error: outcome.error }, 'a callback was not delivered');
    }
    await settle({
      deliveryId: callback.delivery_id,
      status: outcome.status ?? null,
      error: outcome.ok ? null : outcome.error,
    });
  };

  const send = (callback: DueCallback, untilMs: number) => {
    const sent = deliver(callback, untilMs)
      .catch((error) => log.warn({ err: error }, 'could not settle a callback; it will be sent again'))
      .finally(() => {
        sending.delete(sent);
        if (more) void look().catch((error) => log.warn({ err: error }, 'could not look for callbacks'));
      });
    sending.add(sent);
  };

  /** Begins to send what is due, up to 200 at a time; the rest follows as these end. Does not wait for receivers. */
  const look = async (): Promise<void> => {
    again = true;
    if (looking) return;
    looking = true;
    try {
      while (again && !stopped) {
        again = false;
        const room = AT_ONCE - sending.size;
        if (room === 0) {
          more = true;
          return;
        }
        const untilMs = performance.now() + CLAIM_MS - SLACK_MS;
        const due = await claimCallbacks(db, room);
        more = due.length === room;
        for (const callback of due) send(callback, untilMs);
      }
    } finally {
      looking = false;
    }
  };

  return {
    look,
    /** Gives those that are being sent a moment; the others are sent again, by whichever server, when their claim has lapsed. */
    async stop(): Promise<void> {
      stopped = true;
      const late = new AbortController();
      const patience = sleep(STOP_MS, undefined, { signal: late.signal }).catch(() => undefined);
      await Promise.race([Promise.all(sending), patience]);
      late.abort();
    },
  };
}
