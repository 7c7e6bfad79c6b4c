import type { IncomingMessage } from 'node:http';
import { badRequest } from '../protocol/errors.ts';
import { idempotencyKey } from '../protocol/tasks.ts';

/** The Idempotency-Key header. Throws 400 for one that can't be a key. */
export function keyOf(req: IncomingMessage): string | undefined {
  const sent = req.headers['idempotency-key'];
  if (sent === undefined) return undefined;
  const parsed = idempotencyKey.safeParse(sent);
  if (!parsed.success)
    throw badRequest('Idempotency-Key: 1 to 255 characters', [
      { path: 'Idempotency-Key', message: '1 to 255 characters' },
    ]);
  return parsed.data;
}
