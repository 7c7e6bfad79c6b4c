import { after } from 'node:test';
import pg from 'pg';
import { createDatabase } from './database.ts';

const INT8 = 20;
const INT8_ARRAY = 1016;

// Task ids are beyond 2^53.
const types = {
  getTypeParser(oid: number, format?: 'text' | 'binary') {
    if (oid === INT8) return BigInt;
    if (oid === INT8_ARRAY) return (text: string) => (text === '{}' ? [] : text.slice(1, -1).split(',').map(BigInt));
    return pg.types.getTypeParser(oid, format);
  },
} as pg.CustomTypesConfig;

export type Item = {
  queue?: string | null;
  level?: number;
  priority?: number;
  timeout?: number;
  mode?: string;
  endpoint?: string | null;
  group?: number;
  callbackUrl?: string;
  traceId?: string;
  data?: string;
  tenant?: number;
  options?: object;
};

export type PutRow = {
  ord: number;
  id: bigint;
  task_id: string;
  lane: string;
  rank: number;
  state: string | null;
  code: string | null;
  message: string | null;
  retry_after: number | null;
};

export type TakeOptions = {
  size?: number;
  sizes?: number[];
  strategy?: string;
  hintRanks?: number[];
  hintIds?: bigint[];
  endpoint?: string | null;
  minAge?: number;
  leases?: (number | null)[];
  workers?: string[];
  maxAttempts?: (number | null)[];
};

export type TakenRow = {
  request: number;
  turn: number;
  id: bigint;
  rank: number;
  task_id: string;
  attempt: number;
  queue: string;
  level: number;
  endpoint: string;
  mode: string;
  data: string;
  more: boolean;
};

/** `lane` is null where the task could not be given back. */
export type ReleasedRow = { ord: number; id: bigint; verdict: string; lane: string | null; rank: number | null };
export type MovedRow = { ord: number; id: bigint; refusal: string | null; lane: string | null; rank: number | null };
export type SweptRow = {
  outcome: string;
  id: bigint | null;
  lane: string | null;
  rank: number | null;
  swept_at: Date | null;
};

export type Release = { id: bigint; attempt?: number; delay?: number; reason?: string; begun?: boolean };

export type Answer = { id: bigint; attempt?: number; status?: number; requestId?: string; body?: string };

/** A session in a test database, with the functions of schema tasklane as methods. */
export class Session {
  readonly client: pg.Client;
  pid = 0;

  constructor(url: string) {
    // A take or a put must never wait; what does wait in a test is freed within it, so this only ends a test that hangs.
    this.client = new pg.Client({ connectionString: url, types, statement_timeout: 60_000 });
  }

  async open(): Promise<this> {
    await this.client.connect();
    this.pid = await this.value<number>('select pg_backend_pid()');
    return this;
  }

  async rows<Row extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<Row[]> {
    return (await this.client.query<Row>(text, values)).rows;
  }

  async value<Value>(text: string, values: unknown[] = []): Promise<Value> {
    const rows = await this.client.query({ text, values, rowMode: 'array' });
    return rows.rows[0]?.[0] as Value;
  }

  async run(text: string, values: unknown[] = []): Promise<void> {
    await this.client.query(text, values);
  }

  register(queue: string, endpoint = '/v1/chat/completions', settings = {}): Promise<string> {
    return this.value('select tasklane.register_queue($1, $2, $3)', [queue, endpoint, settings]);
  }

  tryPut(items: Item[]): Promise<PutRow[]> {
    const options = items.map((item) => item.options ?? null);
    return this.rows<PutRow>(
      'select * from tasklane.put_tasks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, p_options => $13)',
      [
        items.map((item, index) => item.group ?? index),
        items.map((item) => item.tenant ?? 1),
        items.map(() => null),
        items.map((item) => item.queue ?? null),
        items.map((item) => item.endpoint ?? null),
        items.map((item) => item.level ?? 0),
        items.map((item) => item.mode ?? 'callback'),
        items.map((item) => item.priority ?? 5),
        items.map((item) => item.timeout ?? 3600),
        items.map((item) => item.callbackUrl ?? null),
        items.map((item) => item.traceId ?? null),
        items.map((item) => item.data ?? '{}'),
        options.some((option) => option !== null) ? options.map((option) => option && JSON.stringify(option)) : null,
      ],
    );
  }

  /** Puts tasks that must all be accepted. */
  async put(items: Item[]): Promise<PutRow[]> {
    const rows = await this.tryPut(items);
    const refused = rows.find((row) => row.code !== null);
    if (refused) throw new Error(`put refused: ${refused.message}`);
    return rows;
  }

  async putOne(item: Item): Promise<PutRow> {
    const [row] = await this.put([item]);
    if (!row) throw new Error('put returned nothing');
    return row;
  }

  take(lanes: string[], options: TakeOptions = {}): Promise<TakenRow[]> {
    return this.rows<TakenRow>(
      'select * from tasklane.take_tasks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)',
      takeValues(lanes, options),
    );
  }

  async takeOne(lanes: string[], options: TakeOptions = {}): Promise<TakenRow> {
    const [row] = await this.take(lanes, options);
    if (!row) throw new Error(`nothing to take in ${lanes}`);
    return row;
  }

  complete(answers: Answer[]) {
    return this.rows<{ ord: number; id: bigint; verdict: string; task_id: string; has_callback: boolean }>(
      'select * from tasklane.complete_tasks($1, $2, $3, $4, $5)',
      [
        answers.map((answer) => answer.id),
        answers.map((answer) => answer.attempt ?? null),
        answers.map((answer) => answer.status ?? 200),
        answers.map((answer) => answer.requestId ?? null),
        answers.map((answer) => answer.body ?? '{"ok":true}'),
      ],
    );
  }

  async verdicts(answers: Answer[]): Promise<string[]> {
    return (await this.complete(answers)).map((row) => row.verdict);
  }

  cancel(ids: bigint[], tenants: number[] | null = null) {
    return this.rows<{ ord: number; id: bigint; refusal: string | null; task_id: string }>(
      'select * from tasklane.cancel_tasks($1, $2)',
      [ids, tenants],
    );
  }

  async refusals(ids: bigint[], tenants: number[] | null = null): Promise<(string | null)[]> {
    return (await this.cancel(ids, tenants)).map((row) => row.refusal);
  }

  release(tasks: Release[]): Promise<ReleasedRow[]> {
    return this.rows<ReleasedRow>('select * from tasklane.release_tasks($1, $2, $3, $4, $5)', [
      tasks.map((task) => task.id),
      tasks.map((task) => task.attempt ?? null),
      tasks.map((task) => task.delay ?? null),
      tasks.map((task) => task.reason ?? null),
      tasks.map((task) => task.begun ?? null),
    ]);
  }

  heartbeat(tasks: { id: bigint; attempt?: number; lease?: number }[]) {
    return this.rows<{ ord: number; verdict: string; worker: string | null }>(
      'select * from tasklane.extend_leases($1, $2, $3)',
      [
        tasks.map((task) => task.id),
        tasks.map((task) => task.attempt ?? null),
        tasks.map((task) => task.lease ?? null),
      ],
    );
  }

  setPriorities(ids: bigint[], priorities: number[], tenants: number[] | null = null): Promise<MovedRow[]> {
    return this.rows<MovedRow>('select * from tasklane.set_priorities($1, $2, $3)', [ids, priorities, tenants]);
  }

  replay(ids: bigint[], tenants: number[] | null = null): Promise<MovedRow[]> {
    return this.rows<MovedRow>('select * from tasklane.replay_tasks($1, $2)', [ids, tenants]);
  }

  sweep(limit = 1000, since = '-infinity'): Promise<SweptRow[]> {
    return this.rows<SweptRow>('select * from tasklane.sweep_due($1, $2)', [limit, since]);
  }

  /** Lets the leases of running tasks lapse, and the delays of deferred ones be over; a sweep then sees to them. */
  async lapse(ids: bigint[]): Promise<void> {
    await this.run("update tasklane.running set lease_until = now() - interval '1 second' where id = any($1)", [ids]);
    await this.run("update tasklane.deferred set run_at = now() - interval '1 second' where id = any($1)", [ids]);
  }

  state(id: bigint): Promise<string | null> {
    return this.value('select tasklane.task_state($1)', [id]);
  }

  /** Lets the deadline of tasks pass, wherever they are. */
  async age(ids: bigint[], at = "now() - interval '1 second'"): Promise<void> {
    for (const table of ['task', 'ready', 'running', 'deferred'])
      await this.run(`update tasklane.${table} set expires_at = ${at} where id = any($1)`, [ids]);
  }
}

export function takeValues(lanes: string[], options: TakeOptions): unknown[] {
  return [
    lanes,
    options.sizes ?? [options.size ?? 1],
    options.strategy ?? 'fifo',
    options.hintRanks ?? null,
    options.hintIds ?? null,
    options.endpoint ?? null,
    options.minAge ?? 0,
    options.leases ?? null,
    options.workers ?? null,
    options.maxAttempts ?? null,
  ];
}

/** Gives a test file its own database, dropped after its tests; `open()` makes sessions in it. */
export async function testDatabase() {
  const database = await createDatabase();
  const sessions: Session[] = [];
  let names = 0;
  after(async () => {
    await Promise.all(sessions.map((session) => session.client.end()));
    await database.drop();
  });
  return {
    url: database.url,
    async open(): Promise<Session> {
      const session = await new Session(database.url).open();
      sessions.push(session);
      return session;
    },
    /** A queue name that no other test of the file has. */
    name: (): string => `q${++names}`,
  };
}

/** Runs `work` in a transaction of `session` that stays open until the returned function is called. */
export async function hold<Result>(
  session: Session,
  work: () => Promise<Result>,
): Promise<[Result, (end: string) => Promise<void>]> {
  await session.run('begin');
  return [await work(), (end) => session.run(end)];
}

/** Resolves once `session` waits for a lock that another holds. `watcher` must be a third session. */
export async function untilBlocked(watcher: Session, session: Session): Promise<void> {
  while (!(await watcher.value<boolean>('select cardinality(pg_blocking_pids($1)) > 0', [session.pid])));
}

export const code = (expected: string) => (error: unknown) => (error as { code?: string }).code === expected;
