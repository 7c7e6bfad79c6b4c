import { hash } from 'node:crypto';
import type { NewTask } from '../db/put-tasks.ts';
import { memberTexts, minifyJson } from '../protocol/json.ts';
import type { PutBody } from '../protocol/tasks.ts';

/**
 * The task that a put's body asks for. `text` is that body as it came; `key` an idempotency key from outside it, and `scope` the text that
 * a repeat under it must equal.
 */
export function newTask(
  put: PutBody,
  text: string,
  who: { tenantId: number; keyId: number | null },
  key?: string,
  scope = text,
): NewTask {
  const idempotencyKey = put.idempotency_key ?? key;
  const options = {
    run_at: put.run_at ?? undefined,
    delay_seconds: put.delay_seconds ?? undefined,
    max_attempts: put.max_attempts ?? undefined,
    retry: put.retry ?? undefined,
    metadata: put.metadata ?? undefined,
    idempotency_key: idempotencyKey,
    body_hash: idempotencyKey === undefined ? undefined : hashOf(put.idempotency_key == null ? scope : text),
  };
  return {
    tenantId: who.tenantId,
    keyId: who.keyId,
    queue: put.queue || null,
    endpoint: put.endpoint,
    level: put.level,
    mode: put.response_mode,
    priority: put.priority,
    timeout: put.timeout,
    callbackUrl: put.callback_url || null,
    traceId: put.trace_id ?? null,
    model: typeof put.data.model === 'string' ? put.data.model : null,
    data: memberTexts(text).get('data') as string,
    options: Object.values(options).some((value) => value !== undefined) ? JSON.stringify(options) : null,
  };
}

/** The same for bodies that differ in white space, in the order of their fields, and in where they carry their key. Values count to the letter. */
export function hashOf(body: string): string {
  const members = [...memberTexts(body)]
    .filter(([name]) => name !== 'idempotency_key')
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return hash('sha256', members.map(([name, text]) => `${JSON.stringify(name)}:${minifyJson(text)}`).join(','), 'hex');
}
