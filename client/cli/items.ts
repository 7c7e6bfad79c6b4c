import { writeFile } from 'node:fs/promises';
import { chat, embed, generate } from '../build.ts';
import { hasEnded } from '../task.ts';
import type { Put, Task } from '../types.ts';
import { answerText } from './answer-text.ts';
import { given } from './arguments.ts';
import type { Context } from './context.ts';
import { Failure, usage } from './failure.ts';
import { showProgress } from './progress.ts';
import { ENDPOINTS, type Kind, noRoute } from './routes.ts';

/** An item of ollama-queue's batch files. */
type Item = {
  type: Kind;
  model: string;
  priority?: Put['priority'];
  system?: string;
  scheduled_at?: string;
  messages?: Parameters<typeof chat>[0]['messages'];
  prompt?: string;
  input?: string | string[];
  template?: string;
  raw?: boolean;
  truncate?: boolean;
  options?: Record<string, unknown>;
};

const NEEDED = { chat: 'messages', generate: 'prompt', embed: 'input' } as const;
const LOOKED_AT = 65_536;

/** The items of a file that has them, as a JSON array or one a line; undefined for a file of another kind. */
export async function itemsOf(file: Blob): Promise<Item[] | undefined> {
  const start = (await file.slice(0, LOOKED_AT).text()).trimStart();
  if (start.startsWith('[')) return checked(parse(await file.text(), 'the file') as Item[]);
  const line = start.split('\n', 1)[0] ?? '';
  if (!/"type"\s*:\s*"(chat|generate|embed)"/.test(line) || /"custom_id"\s*:/.test(line)) return undefined;
  const lines = (await file.text()).split('\n').filter((one) => one.trim() !== '');
  return checked(lines.map((one, index) => parse(one, `line ${index + 1}`) as Item));
}

function parse(text: string, where: string): unknown {
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    throw usage(`${where} is not JSON: ${(error as Error).message}`);
  }
}

function checked(items: Item[]): Item[] {
  for (const [index, item] of items.entries()) {
    const needed = NEEDED[item?.type];
    if (needed === undefined) throw usage(`item ${index + 1}: type must be chat, generate or embed`);
    for (const key of ['model', needed] as const) {
      if (item[key] === undefined) throw usage(`item ${index + 1}: a ${item.type} needs ${key}`);
    }
  }
  return items;
}

/** Puts each as a task, all or, from 1,000 on, by the thousand. */
export async function submitItems(
  context: Context,
  items: readonly Item[],
  options: { queue?: string; endpoint?: string; metadata?: Record<string, string>; wait?: true; output?: string },
): Promise<void> {
  const { client, out, signal } = context;
  const { queue = context.config.submit?.queue, metadata } = options;
  const endpointOf =
    options.endpoint === undefined ? await endpoints(context, queue) : () => options.endpoint as string;
  const puts = items.map((item) => putOf(item, { ...given({ queue, metadata }), endpoint: endpointOf(item) }));
  const ids = await client.puts(puts, { signal });
  if (!options.wait) {
    const tasks = ids.map((task_id, index) => ({
      task_id,
      status: 'submitted',
      type: items[index]?.type,
      model: items[index]?.model,
    }));
    return out.either({ batch_size: ids.length, status: 'submitted', tasks }, () => ids.forEach(out.print));
  }
  await waitForAll(context, ids, options.output);
}

/** Where items go: to the queue that is named, else to the first endpoint where channels or queues have a route for their model. */
async function endpoints({ client }: Context, queue: string | undefined): Promise<(item: Item) => string> {
  if (queue !== undefined) {
    const { endpoint } = await client.queues.get(queue);
    return () => endpoint;
  }
  const [channels, queues] = await Promise.all([client.channels.list(), client.queues.list()]);
  const routed = new Set([
    ...channels.map(({ endpoint, model }) => `${endpoint} ${model}`),
    ...queues.map((one) => `${one.endpoint} ${one.queue}`),
  ]);
  return ({ type, model }) => {
    const found = ENDPOINTS[type].find((endpoint) => routed.has(`${endpoint} ${model}`));
    if (found === undefined) throw noRoute(type, model);
    return found;
  };
}

function putOf(item: Item, common: Partial<Put>): Put {
  const { type, model, messages = [], prompt = '', input = '', scheduled_at: run_at, ...rest } = item;
  const { priority, system, template, raw, truncate, options } = rest;
  const put = { ...common, model, ...given({ priority, run_at, parameters: options && { options } }) };
  if (type === 'chat') return chat({ ...put, messages, ...given({ system }) });
  if (type === 'embed') return embed({ ...put, input, ...given({ truncate }) });
  return generate({ ...put, prompt, ...given({ system, template, raw }) });
}

async function waitForAll(context: Context, ids: readonly string[], output?: string): Promise<void> {
  const { out, signal } = context;
  const client = await context.patient();
  const progress = await showProgress();
  const tasks: Task[] = [];
  let failed = 0;
  progress.update({ done: 0, total: ids.length, failed });
  try {
    for (const id of ids) {
      const task = await client.get(id, { signal });
      tasks.push(hasEnded(task) ? task : await client.wait(id, { signal }));
      if (tasks.at(-1)?.status !== 'succeeded') failed++;
      progress.update({ done: tasks.length, total: ids.length, failed });
    }
  } finally {
    progress.stop();
  }
  const results = tasks.map(({ task_id, status, data, result }) => ({
    task_id,
    status,
    model: data.model,
    result: result ?? null,
  }));
  if (output !== undefined) {
    const lines = results.map((result) => `${JSON.stringify(result)}\n`).join('');
    if (output === '-') out.write(lines);
    else await writeFile(output, lines);
  }
  if (out.json) out.data({ batch_size: ids.length, tasks: results });
  else if (output === undefined) {
    for (const { task_id, status, result } of results)
      out.print(`${task_id} ${status}: ${answerText(result?.body ?? '')}`);
  }
  if (failed > 0) throw new Failure(`${ids.length - failed} of ${ids.length} succeeded`);
}
