import assert from 'node:assert/strict';
import pg from 'pg';
import { formHeaders, multipart } from '../support/multipart.ts';
import { type Answer, type Json, until } from '../support/server.ts';
import { CHAT, type fixture } from './fixture.ts';

export const WINDOW = '24h';
export const ENDED = ['completed', 'failed', 'expired', 'cancelled'];

/** A line of a batch's input. A field that is undefined is not written. */
export const line = (customId: unknown, model: unknown, more: object = {}) => ({
  custom_id: customId,
  method: 'POST',
  url: CHAT,
  body: { model, messages: [{ role: 'user', content: 'hi' }] },
  ...more,
});
export const jsonl = (lines: readonly unknown[]): string => `${lines.map((one) => JSON.stringify(one)).join('\n')}\n`;

/** Ways of a test to run batches on its fixture's server. */
export function batchSteps(f: ReturnType<typeof fixture>) {
  type Caller = typeof f.client;

  const upload = async (
    content: string | Uint8Array,
    caller: Caller = f.client,
    purpose = 'batch',
  ): Promise<string> => {
    const parts = [
      { name: 'purpose', value: purpose },
      { name: 'file', value: content, filename: 'in.jsonl' },
    ];
    const answer = await caller('POST', '/v1/files', multipart(parts), { headers: formHeaders() });
    assert.equal(answer.status, 200, answer.text);
    return answer.json.id;
  };

  const tryCreate = (body: object, headers: Record<string, string> = {}, caller: Caller = f.client): Promise<Answer> =>
    caller('POST', '/v1/batches', { endpoint: CHAT, completion_window: WINDOW, ...body }, { headers });

  const get = async (id: string): Promise<Json> => (await f.admin('GET', `/v1/batches/${id}`)).json;

  const become = (id: string, ...statuses: string[]): Promise<Json> =>
    until(async () => {
      const batch = await get(id);
      if (!statuses.includes(batch.status) && ENDED.includes(batch.status)) assert.fail(JSON.stringify(batch));
      return statuses.includes(batch.status) && batch;
    });

  const content = async (fileId: string | null): Promise<string> => {
    if (fileId === null) return '';
    const answer = await f.admin('GET', `/v1/files/${fileId}/content`);
    assert.equal(answer.status, 200, answer.text);
    return answer.text;
  };
  const parsedLines = async (fileId: string | null): Promise<Json[]> => {
    const text = await content(fileId);
    if (text !== '') assert.ok(text.endsWith('\n'), 'the last line has its line break');
    return text
      .split('\n')
      .slice(0, -1)
      .map((one) => JSON.parse(one));
  };

  const create = async (input: string | Uint8Array, body: object = {}, headers: Record<string, string> = {}) => {
    const answer = await tryCreate({ input_file_id: await upload(input), ...body }, headers);
    assert.equal(answer.status, 200, answer.text);
    return answer.json;
  };

  const connected = async <Result>(call: (db: pg.Client) => Promise<Result>): Promise<Result> => {
    const db = new pg.Client({ connectionString: f.server.databaseUrl });
    await db.connect();
    try {
      return await call(db);
    } finally {
      await db.end();
    }
  };

  return {
    upload,
    tryCreate,
    create,
    get,
    become,
    content,

    /** The errors of a batch that fails its validation. */
    async errorsOf(input: string | Uint8Array, body: object = {}) {
      const made = await create(input, body);
      const { errors, ...failed } = await become(made.id, 'failed');
      assert.deepEqual(Object.keys(errors), ['object', 'data']);
      assert.equal(errors.object, 'list');
      assert.deepEqual(failed.request_counts, { total: 0, completed: 0, failed: 0 });
      return errors.data as Json[];
    },

    /** Answers the lines of a lane until the batch has ended; each by default with a short answer. */
    async answerAll(id: string, lane: string, answer: (task: Json) => object = () => ({}), size = 100): Promise<Json> {
      for (;;) {
        const tasks = await f.take(lane, { size });
        if (tasks.length > 0) {
          const results = tasks.map((task) => ({
            task_id: task.task_id,
            status_code: 200,
            body: { ok: task.custom_id },
            ...answer(task),
          }));
          const done = await f.worker('POST', '/v1/queue/complete', { results });
          assert.equal(done.status, 200, done.text);
        }
        const batch = await get(id);
        if (ENDED.includes(batch.status)) return batch;
      }
    },

    /** What both files of an ended batch say, parsed. */
    async files(batch: Json) {
      const [output, errors] = await Promise.all([parsedLines(batch.output_file_id), parsedLines(batch.error_file_id)]);
      return { output, errors };
    },

    /** In psql. */
    query: (text: string, values: unknown[]) => connected((db) => db.query(text, values)),

    /** Calls `call` while nobody can read the bytes of files: what is validated stays so. */
    whileFilesAreHeld: <Result>(call: () => Promise<Result>): Promise<Result> =>
      connected(async (db) => {
        await db.query('begin; lock table tasklane.file_chunk in access exclusive mode');
        return call();
      }),
  };
}
