import type { Session, TakenRow } from './sql.ts';

export type Line = { custom_id: string; method?: string; url?: string; body: object };

/** A session's batches, as the server's work does them but a step at a time. */
export function batchesOf(db: Session) {
  const makeFile = async (text: string, purpose = 'batch', tenant = 1): Promise<{ number: bigint; id: string }> => {
    const [file] = await db.rows<{ file_number: bigint; file_id: string }>(
      `insert into tasklane.file (file_id, tenant_id, filename, purpose) values (tasklane.random_id('file-'), $1, 'in.jsonl', $2)
       returning file_number, file_id`,
      [tenant, purpose],
    );
    if (!file) throw new Error('no file');
    if (text !== '') await db.run('select tasklane.append_chunk($1, $2)', [file.file_number, Buffer.from(text)]);
    // Shown all the same: what is copied into one is looked at in the table.
    if (text !== '') await db.run('select from tasklane.finish_file($1)', [file.file_number]);
    return { number: file.file_number, id: file.file_id };
  };

  const create = (
    fileId: string,
    more: { queue?: string | null; window?: number; key?: string; hash?: string; tenant?: number } = {},
  ) =>
    db
      .rows<{ batch_id: bigint; repeated: boolean }>(
        `select * from tasklane.create_batch($5, null, $1, '/v1/chat/completions', '24h', $2, $3, p_idempotency_key => $4, p_body_hash => $6)`,
        [fileId, more.window ?? 86_400, more.queue ?? null, more.key ?? null, more.tenant ?? 1, more.hash ?? null],
      )
      .then(([row]) => row as { batch_id: bigint; repeated: boolean });

  const expand = (id: bigint, from: number, to: number, models: string[], last: boolean, prefix = 'r') =>
    db.value<number[] | null>('select tasklane.expand_batch($1, $2, $3, $4, $5, $6, $7)', [
      id,
      from,
      to,
      models,
      models.map((_, n) => `${prefix}${from + n}`),
      models.map((model, n) => JSON.stringify({ model, n: from + n })),
      last,
    ]);

  return {
    makeFile,
    create,
    expand,
    /** A batch that runs, its `models.length` lines expanded; custom ids are r0, r1, … */
    async start(models: string[], more: { queue?: string; window?: number } = {}): Promise<bigint> {
      const file = await makeFile('{}\n');
      const { batch_id: id } = await create(file.id, more);
      const counts = new Map<string, number>();
      for (const model of models) counts.set(model, (counts.get(model) ?? 0) + 1);
      const begun = await db.value<boolean>('select tasklane.start_batch($1, $2, $3)', [
        id,
        [...counts.keys()],
        [...counts.values()],
      ]);
      if (!begun) throw new Error('the batch did not begin');
      await expand(id, 0, models.length, models, true);
      return id;
    },
    topUp: () => db.rows<{ id: bigint; lane: string }>('select * from tasklane.top_up_lanes()'),
    fold: () => db.rows<{ batch_id: bigint; ended: boolean }>('select * from tasklane.fold_batches()'),
    claim: () =>
      db.rows<{ batch_id: bigint; status: string; ending: string | null }>(
        'select * from tasklane.claim_batches(null, 0)',
      ),
    async endLines(id: bigint, limit = 2000): Promise<void> {
      for (
        let place: { p_lane_id: number | null; p_after: bigint } = { p_lane_id: 0, p_after: 0n };
        place.p_lane_id !== null;
      ) {
        const [next] = await db.rows<{ p_lane_id: number | null; p_after: bigint }>(
          'select * from tasklane.end_lines($1, $2, $3, $4)',
          [id, place.p_lane_id, place.p_after, limit],
        );
        place = next as typeof place;
      }
    },
    async write(id: bigint, limit = 1000): Promise<void> {
      while (await db.value<boolean | null>('select tasklane.write_batch($1, $2)', [id, limit]));
    },
    // biome-ignore lint/suspicious/noExplicitAny: a test asserts what a row holds
    progress: async (id: bigint): Promise<any> =>
      (await db.rows('select * from tasklane.batch_progress where batch_id = $1', [id]))[0],
    /** The lines of a batch's output or error file, parsed. */
    // biome-ignore lint/suspicious/noExplicitAny: as above
    async lines(id: bigint, which: 'output_file' | 'error_file'): Promise<any[]> {
      const chunks = await db.rows<{ bytes: Buffer }>(
        `select c.bytes from tasklane.batch b join tasklane.file_chunk c on c.file_number = b.${which} where b.batch_id = $1 order by c.at`,
        [id],
      );
      const text = Buffer.concat(chunks.map((chunk) => chunk.bytes)).toString();
      return text === ''
        ? []
        : text
            .trimEnd()
            .split('\n')
            .map((line) => JSON.parse(line));
    },
    /** Takes up to `size` and answers; the custom ids in the order of the take. */
    async work(lane: string, size: number, status = 200, body = '{"ok":true}'): Promise<string[]> {
      const taken = (await db.take([lane], { size })) as (TakenRow & { custom_id: string })[];
      if (taken.length > 0)
        await db.complete(taken.map((task) => ({ id: task.id, attempt: task.attempt, status, body })));
      return taken.map((task) => task.custom_id);
    },
  };
}
