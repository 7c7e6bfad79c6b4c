import type { Message } from '../db/callbacks.ts';
import { minifyJson } from '../protocol/json.ts';
import type { AddressRule } from './address.ts';
import { type CallbackOutcome, sendCallback } from './send.ts';
import { signCallback } from './sign.ts';

/** Sends a message once, signed with the time of this attempt. Never throws for what the receiver does. */
export function attempt(message: Message, rule: AddressRule, timeoutMs?: number): Promise<CallbackOutcome> {
  const { url, secrets, webhook_id: id, task_id: taskId } = message;
  const body = minifyJson(message.body);
  const timestamp = Math.floor(Date.now() / 1000);
  return sendCallback({
    url,
    headers: {
      'webhook-id': id,
      'webhook-timestamp': String(timestamp),
      'webhook-signature': signCallback({ secrets, id, timestamp, body }),
      ...(taskId !== null && { 'X-TASK-ID': taskId }),
      'User-Agent': 'Tasklane',
    },
    body,
    rule,
    ...(timeoutMs !== undefined && { timeoutMs }),
  });
}
