import type { Logger } from 'pino';
import { claimCallbacks, type DueCallback, type Settled, settleCallbacks } from '../db/callbacks.ts';
import { createCoalescer } from '../db/coalesce.ts';
import type { Database } from '../db/open.ts';
import { minifyJson } from '../protocol/json.ts';
import type { AddressRule } from './address.ts';
import { sendCallback } from './send.ts';
import { signCallback } from './sign.ts';

const AT_ONCE = 50;

/**
 * Sends all callbacks that are due, up to 50 at a time, and returns when none is left. Each is claimed for two minutes, so other servers
 * may do the same beside, and what a dying one had claimed is sent again: receivers know a repeat by its `webhook-id`.
 */
export async function deliverCallbacks(deps: { db: Database; rule: AddressRule; log: Logger }): Promise<void> {
  const { db, rule, log } = deps;
  const settle = createCoalescer<Settled, undefined>({
    async run(settled) {
      await settleCallbacks(db, settled);
      return settled.map(() => undefined);
    },
  });

  const deliver = async (callback: DueCallback) => {
    const body = minifyJson(callback.body);
    const id = `msg_${callback.delivery_id}`;
    const timestamp = Math.floor(Date.now() / 1000);
    const outcome = await sendCallback({
      url: callback.url,
      headers: {
        'webhook-id': id,
        'webhook-timestamp': String(timestamp),
        'webhook-signature': signCallback({ secret: callback.secret, id, timestamp, body }),
        'X-TASK-ID': callback.task_id,
        'User-Agent': 'Tasklane',
      },
      body,
      rule,
    });
    if (!outcome.ok)
      log.info(
        { taskId: callback.task_id, attempt: callback.attempts, error: outcome.error },
        'a callback was not delivered',
      );
    await settle({
      deliveryId: callback.delivery_id,
      status: outcome.status ?? null,
      error: outcome.ok ? null : outcome.error,
    });
  };

  const sending = new Set<Promise<void>>();
  for (;;) {
    const due = sending.size < AT_ONCE ? await claimCallbacks(db, AT_ONCE - sending.size) : [];
    for (const callback of due) {
      const sent = deliver(callback).finally(() => sending.delete(sent));
      sending.add(sent);
    }
    if (sending.size === 0) return;
    if (due.length === 0) await Promise.race(sending);
  }
}
