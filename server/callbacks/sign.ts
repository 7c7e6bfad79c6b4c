import { createHmac, randomBytes } from 'node:crypto';

const SECRET_PREFIX = 'whsec_';

/** A new Standard Webhooks secret of 256 random bits. */
export function newCallbackSecret(): string {
  return SECRET_PREFIX + randomBytes(32).toString('base64');
}

/**
 * The `webhook-signature` header of a delivery, as Standard Webhooks has it: a signature for each secret.
 * @param delivery.secrets `whsec_` and base64
 * @param delivery.id the `webhook-id` header, the same over retries
 * @param delivery.timestamp the `webhook-timestamp` header, epoch seconds of this attempt, as receivers refuse old ones
 * @throws Error when a secret does not begin with `whsec_`
 */
export function signCallback(delivery: {
  secrets: readonly string[];
  id: string;
  timestamp: number;
  body: string;
}): string {
  const { secrets, id, timestamp, body } = delivery;
  const signatures = secrets.map((secret) => {
    if (!secret.startsWith(SECRET_PREFIX)) throw new Error(`a callback secret begins with ${SECRET_PREFIX}`);
    const key = Buffer.from(secret.slice(SECRET_PREFIX.length), 'base64');
    return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest('base64')}`;
  });
  return signatures.join(' ');
}
