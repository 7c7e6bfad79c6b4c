import { hash } from 'node:crypto';
import type { NewTask } from '../db/put-tasks.ts';
import { memberTexts, minifyJson } from '../protocol/json.ts';
import { PRIORITIES, type PutBody, TIMEOUTS } from '../protocol/tasks.ts';

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
    timeout: put.timeout ?? TIMEOUTS[put.response_mode].usual,
    callbackUrl: put.callback_url || null,
    traceId: put.trace_id ?? null,
    model: typeof put.data.model === 'string' ? put.data.model : null,
    data: memberTexts(text).get('data') as string,
    options: Object.values(options).some((value) => value !== undefined) ? JSON.stringify(options) : null,
    headers: null,
  };
}

/** The live task that a request to a model is: its whole body is the task's data. */
export function newRequest(
  request: { endpoint: string; model: string; stream: boolean; text: string; headers: string | null },
  who: { tenantId: number; keyId: number | null },
  key: string | undefined,
): NewTask {
  const { endpoint, model, stream, text, headers } = request;
  const mode = stream ? 'streaming' : 'blocking';
  // The same body at another endpoint is another request.
  const options = key !== undefined && { idempotency_key: key, body_hash: hashOf(text, endpoint) };
  return {
    tenantId: who.tenantId,
    keyId: who.keyId,
    queue: null,
    endpoint,
    level: 0,
    mode,
    priority: PRIORITIES.normal,
    timeout: TIMEOUTS[mode].most,
    callbackUrl: null,
    traceId: null,
    model,
    data: text,
    options: options ? JSON.stringify(options) : null,
    headers,
  };
}

/**
 * The same for bodies that differ in white space, in the order of their fields, and in where they carry their key. Values count to the letter. `place`
 * is what else must be the same, such as the endpoint.
 */
export function hashOf(body: string, place = ''): string {
  const members = [...memberTexts(body)]
    .filter(([name]) => name !== 'idempotency_key')
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const texts = members.map(([name, text]) => `${JSON.stringify(name)}:${minifyJson(text)}`);
  return hash('sha256', place + texts.join(','), 'hex');
}
