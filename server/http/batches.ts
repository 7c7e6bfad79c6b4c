import type { IncomingMessage } from 'node:http';
import accepts from 'accepts';
import { ownerOf, type Principal } from '../auth/auth.ts';
import type { Batches } from '../batches/batches.ts';
import { ENDED } from '../batches/tail.ts';
import {
  type Batch,
  cancelBatch,
  checkQueue,
  copyFailedLines,
  createBatch,
  explainBatch,
  findBatch,
  listBatches,
  type NewBatch,
  pauseBatch,
  readResults,
} from '../db/batches.ts';
import { beginFile, deleteFile, findFile, finishFile } from '../db/files.ts';
import type { Database } from '../db/open.ts';
import { batchBody, batchesQuery, dryRunBody, resultsQuery } from '../protocol/batches.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { parseBatchId } from '../protocol/ids.ts';
import { page, refuse } from '../protocol/openai.ts';
import { hashOf } from '../tasks/new-task.ts';
import { hangUp } from './give-up.ts';
import { keyOf } from './idempotency-key.ts';
import { type Route, route } from './route.ts';
import { openSse } from './sse.ts';

const COPY_LINES = 1000;

export function batchRoutes(deps: {
  db: Database;
  batches: Batches;
  keySeconds: number;
  onBatches(ids: string[]): void;
  stopping: AbortSignal;
}): Route[] {
  const { db, batches, keySeconds, onBatches, stopping } = deps;

  /** The batch, if the caller may see it. Throws 400 and 404. */
  const find = async (printed: string | undefined, principal: Principal): Promise<Batch> => {
    const batch = await findBatch(db, idOf(printed), ownerOf(principal));
    if (!batch) throw unknownBatch(printed);
    return batch;
  };

  const create = async (batch: NewBatch): Promise<Batch> => {
    const made = await createBatch(db, batch).catch(nameParameter);
    const created = (await findBatch(db, made.batch_id, null)) as Batch;
    if (!made.repeated) onBatches([made.batch_id]);
    return created;
  };
  const keyed = (req: IncomingMessage, bodyHash: string): NewBatch['key'] => {
    const text = keyOf(req);
    return text === undefined ? null : { text, bodyHash, seconds: keySeconds };
  };

  /** Calls `change`, which may throw 404 and 409, and answers with the batch as that left it. */
  const after = async (printed: string | undefined, principal: Principal, change: (id: string) => Promise<void>) => {
    const id = idOf(printed);
    await change(id).catch((error) => {
      throw error instanceof TasklaneError && error.status === 404 ? unknownBatch(printed) : error;
    });
    const batch = await find(printed, principal);
    onBatches([id]);
    return { json: batchJson(batch) };
  };

  return [
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/batches',
      summary: 'Run the lines of a file; X-BELLA-QUEUE-NAME names a queue for all of them',
      roles: ['client'],
      body: batchBody,
      async handle({ body, text, principal, req }) {
        const queue = queueOf(req.headers['x-bella-queue-name']);
        const batch = await create({
          tenantId: principal.tenantId,
          keyId: principal.keyId,
          inputFileId: body.input_file_id,
          endpoint: body.endpoint,
          completionWindow: body.completion_window.text,
          windowSeconds: body.completion_window.seconds,
          queue,
          metadata: body.metadata ? JSON.stringify(body.metadata) : null,
          outputExpiresSeconds: body.output_expires_after?.seconds ?? null,
          retryOf: null,
          key: keyed(req, hashOf(text, queue ?? '')),
        });
        return { json: batchJson(batch) };
      },
    }),
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/batches',
      summary: 'Batches, newest first',
      roles: ['client'],
      query: batchesQuery,
      async handle({ query, principal }) {
        const before = query.after === undefined ? null : parseBatchId(query.after);
        if (before === undefined) throw noBatchId(query.after, 'after');
        const rows = await listBatches(db, ownerOf(principal), before, query.limit + 1);
        return { json: page(rows.map(batchJson), query.limit) };
      },
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/batches/validate',
      summary: 'Look at the lines of a file as a batch would, without running them',
      roles: ['client'],
      body: dryRunBody,
      async handle({ body, principal, req }) {
        const file = await findFile(db, body.input_file_id, ownerOf(principal));
        if (!file) throw refuse(404, `No such File object: ${body.input_file_id}`, 'input_file_id');
        if (file.purpose !== 'batch') {
          throw refuse(400, `Input file must have purpose 'batch', got '${file.purpose}'`, 'input_file_id');
        }
        const queue = queueOf(req.headers['x-bella-queue-name']);
        if (queue !== null) await checkQueue(db, queue, body.endpoint).catch(nameParameter);
        const { file_number: number } = file;
        const checked = await batches.check({ file: number, endpoint: body.endpoint, hasQueue: queue !== null });
        return {
          json: {
            valid: checked.errors.length === 0,
            total: checked.total,
            models: Object.fromEntries([...checked.models].filter(([model]) => model !== '')),
            estimated_input_tokens: checked.estimatedInputTokens,
            errors: checked.errors,
          },
        };
      },
    }),
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/batches/:id',
      summary: 'A batch',
      roles: ['client'],
      handle: async ({ params, principal }) => ({ json: batchJson(await find(params.id, principal)) }),
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/batches/:id/cancel',
      summary: 'Withdraw what of a batch has not been answered',
      roles: ['client'],
      handle: ({ params, principal }) => after(params.id, principal, (id) => cancelBatch(db, id, ownerOf(principal))),
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/batches/:id/pause',
      summary: 'Hand out no more lines of a batch until it is resumed',
      roles: ['client'],
      handle: ({ params, principal }) =>
        after(params.id, principal, (id) => pauseBatch(db, id, true, ownerOf(principal))),
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/batches/:id/resume',
      summary: 'Let a paused batch go on',
      roles: ['client'],
      async handle({ params, principal }) {
        const reply = await after(params.id, principal, (id) => pauseBatch(db, id, false, ownerOf(principal)));
        await batches.topUp(null);
        return reply;
      },
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/batches/:id/retry_failed',
      summary: 'Run the lines of an ended batch that got no good answer again, as a batch of their own',
      roles: ['client'],
      async handle({ params, principal, req }) {
        const batch = await find(params.id, principal);
        if (!ENDED.includes(batch.status)) {
          throw refuse(409, `Cannot retry the failed requests of a batch with status '${batch.status}'.`);
        }
        const file = await beginFile(db, batch.tenant_id, `${batch.id}_retry.jsonl`);
        for (let last: string | null = '0'; last !== null; ) {
          last = await copyFailedLines(db, batch.batch_id, file, last, COPY_LINES);
        }
        const { bytes, file_id: inputFileId } = await finishFile(db, file, 'batch', null, null);
        if (bytes === 0) {
          await deleteFile(db, inputFileId, null);
          throw refuse(409, 'This batch has no failed requests to run again, or they are not kept any more.');
        }
        const made = await create({
          tenantId: batch.tenant_id,
          keyId: principal.keyId,
          inputFileId,
          endpoint: batch.endpoint,
          completionWindow: batch.completion_window,
          windowSeconds: batch.window_seconds,
          queue: batch.queue,
          metadata: JSON.stringify({ ...JSON.parse(batch.metadata ?? '{}'), retry_of: batch.id }),
          outputExpiresSeconds: batch.output_expires_seconds,
          retryOf: batch.batch_id,
          key: keyed(req, hashOf('{}', batch.id)),
        });
        // A repeat, under a key: the batch has its file already.
        if (made.input_file_id !== inputFileId) await deleteFile(db, inputFileId, null);
        return { json: batchJson(made) };
      },
    }),
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/batches/:id/explain',
      summary: 'Why a batch is where it is, and when it may be through',
      roles: ['client'],
      async handle({ params, principal }) {
        const { batch_id: id } = await find(params.id, principal);
        const { ahead, ...explained } = await explainBatch(db, id);
        return { json: { ...explained, position: ahead } };
      },
    }),
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/batches/:id/results',
      summary: 'The lines that have ended, in the order of their ends; with Accept: text/event-stream as they end',
      roles: ['client'],
      query: resultsQuery,
      async handle({ params, query, principal, req, res }) {
        const { batch_id: id } = await find(params.id, principal);
        if (accepts(req).type(['application/json', 'text/event-stream']) !== 'text/event-stream') {
          await batches.fold();
          const { lines, more, next } = await readResults(db, id, query.after, query.limit);
          return { text: `{"data":[${lines.map((row) => row.line).join(',')}],"has_more":${more},"next":${next}}` };
        }
        const last = req.headers['last-event-id'];
        const from = typeof last === 'string' && /^\d{1,9}$/.test(last) ? Number(last) : query.after;
        const signal = AbortSignal.any([hangUp(res), stopping]);
        const sse = openSse(res, {});
        try {
          for await (const news of batches.tail(id, from, signal)) {
            if ('line' in news) await sse.send({ id: String(news.place), name: 'line', data: news.line });
            else await sse.send({ name: 'end', data: JSON.stringify(batchJson(news.batch)) });
          }
        } finally {
          sse.end();
        }
        return undefined;
      },
    }),
  ];
}

/** Throws 400 for what does not look like a batch's id, 404 for one that is none. */
function idOf(printed: string | undefined): string {
  const id = parseBatchId(printed ?? '');
  if (id !== undefined) return id;
  throw /^batch/i.test(printed ?? '') ? unknownBatch(printed) : noBatchId(printed, 'batch_id');
}

const noBatchId = (printed: string | undefined, param: string) =>
  refuse(400, `Invalid '${param}': '${printed}'. Expected an ID that begins with 'BATCH'.`, param, 'invalid_value');

/** Names the field that a file or queue that will not do came in. */
function nameParameter(error: unknown): never {
  if (!(error instanceof TasklaneError && (error.status === 404 || error.status === 400))) throw error;
  const param = /^(unknown )?queue /.test(error.message) ? 'X-BELLA-QUEUE-NAME' : 'input_file_id';
  throw refuse(error.status, error.message, param);
}

const unknownBatch = (printed: string | undefined) => refuse(404, `No batch found with id '${printed}'.`);

function queueOf(sent: string | string[] | undefined): string | null {
  return typeof sent === 'string' && sent !== '' ? sent : null;
}

const seconds = (at: number | null) => (at === null ? null : Math.floor(at / 1000));

function batchJson(batch: Batch) {
  const [input, cached, output, reasoning, total] = JSON.parse(batch.usage) as number[];
  return {
    id: batch.id,
    object: 'batch',
    endpoint: batch.endpoint,
    model: batch.model,
    errors: batch.errors === null ? null : JSON.parse(batch.errors),
    input_file_id: batch.input_file_id,
    completion_window: batch.completion_window,
    status: batch.status,
    output_file_id: batch.output_file_id,
    error_file_id: batch.error_file_id,
    created_at: seconds(batch.created_at),
    in_progress_at: seconds(batch.in_progress_at),
    expires_at: seconds(batch.expires_at),
    finalizing_at: seconds(batch.finalizing_at),
    completed_at: seconds(batch.completed_at),
    failed_at: seconds(batch.failed_at),
    expired_at: seconds(batch.expired_at),
    cancelling_at: seconds(batch.cancelling_at),
    cancelled_at: seconds(batch.cancelled_at),
    request_counts: { total: batch.total, completed: batch.completed, failed: batch.failed },
    usage: {
      input_tokens: input,
      input_tokens_details: { cached_tokens: cached },
      output_tokens: output,
      output_tokens_details: { reasoning_tokens: reasoning },
      total_tokens: total,
    },
    metadata: batch.metadata === null ? null : JSON.parse(batch.metadata),
  };
}
