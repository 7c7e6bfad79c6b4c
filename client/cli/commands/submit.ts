import type { Command } from 'commander';
import { chat, embed, generate } from '../../build.ts';
import type { Put } from '../../types.ts';
import { formatOption, given, integer, jsonOf, many, pairs, priority, seconds, textOf } from '../arguments.ts';
import type { Context } from '../context.ts';
import { type Delivery, deliver } from '../deliver.ts';
import { usage } from '../failure.ts';
import type { Act } from '../families.ts';
import { messagesOf } from '../messages.ts';
import { atEndpoint, type Kind } from '../routes.ts';
import { defineBatch } from './submit-batch.ts';

type PutOptions = Delivery & {
  model?: string;
  queue?: string;
  endpoint?: string;
  level?: number;
  priority?: Put['priority'];
  timeout?: number;
  delay?: number;
  runAt?: string;
  maxAttempts?: number;
  callbackUrl?: string;
  metadata?: Record<string, string>;
  idempotencyKey?: string;
};

const TEXTS = '\nTexts: - reads stdin, @file reads a file, @@ begins a text with an @.';

export function define(command: Command, act: Act): void {
  withPutOptions(command.command('chat').description('a conversation to go on with'))
    .option('--model <model>', 'which model answers')
    .requiredOption('--messages <role:content>', 'a message; give it again for more, or part them by a comma', many)
    .option('--system <text>', "the system's message, before the others")
    .addHelpText(
      'after',
      `${TEXTS}\n
Examples:
  tasklane submit chat --model llama2 --messages "user:Hello, how are you?" --wait
  tasklane submit chat --model llama2 --messages user:@question.txt --stream
  git diff | tasklane submit chat --model llama2 --system "Review this." --messages - --wait`,
    )
    .action(act(submitChat));
  withPutOptions(command.command('generate').description('a text to go on with'))
    .option('--model <model>', 'which model answers')
    .requiredOption('--prompt <text>', 'the text')
    .option('--system <text>', "the system's message")
    .option('--template <text>', "in place of the model's own (Ollama)")
    .option('--raw', 'no template at all (Ollama)')
    .addHelpText(
      'after',
      `${TEXTS}\n\nExample:\n  tasklane submit generate --model codellama --prompt "Write a Go function to sort an array" --wait`,
    )
    .action(act(submitGenerate));
  withPutOptions(command.command('embed').description('texts to be made vectors of'))
    .option('--model <model>', 'which model answers')
    .requiredOption('--input <text>', 'a text; give it again for more', many)
    .option('--no-truncate', 'fail for a text that is too long, rather than cut it (Ollama)')
    .addHelpText(
      'after',
      `${TEXTS}\n\nExample:\n  tasklane submit embed --model nomic-embed-text --input "This is a sample" --wait`,
    )
    .action(act(submitEmbed));
  withPutOptions(command.command('raw').description('a task with data of any kind'))
    .requiredOption('--data <json>', 'a JSON object: for the worker alone to read')
    .addHelpText(
      'after',
      `${TEXTS}\n\nExample:\n  tasklane submit raw --queue thumbnails --data '{"url": "https://example.com/a.png"}'`,
    )
    .action(act(submitRaw));
  defineBatch(command.command('batch'), act);
}

function withPutOptions(command: Command): Command {
  return command
    .option('--queue <queue>', 'the queue; without it the model decides')
    .option('--endpoint <endpoint>', "how data is read; the queue's, or the first that has a route for the model")
    .option('--level <level>', '0 is live, 1 to 99 can wait', integer(0, 99))
    .option('--priority <priority>', 'low, normal, high, critical, or 0 to 100', priority)
    .option('--wait', 'wait for the answer, and print its text')
    .option('--stream', 'print the text as it comes')
    .option('--timeout <seconds>', 'until the task expires', seconds)
    .option('--delay <seconds>', 'not before so many seconds', seconds)
    .option('--run-at <time>', 'not before this time (ISO 8601)')
    .option('--max-attempts <n>', 'how often it may be tried', integer(1, 100))
    .option('--callback-url <url>', 'where the answer is posted')
    .option('--metadata <name=value>', 'shown with the task; give it again for more', pairs)
    .option('--idempotency-key <key>', 'put once, however often you ask')
    .addOption(formatOption('text'));
}

async function submitChat(
  context: Context,
  options: PutOptions & { messages: string[]; system?: string },
): Promise<void> {
  const { model, all } = withDefaults(context, options);
  const messages = await messagesOf(options.messages);
  const text = options.system ?? context.config.submit?.system;
  const system = text === undefined ? {} : { system: await textOf(text) };
  await submit(context, 'chat', options, all, (endpoint) =>
    chat({ ...all, model, messages, ...system, ...streamed(options), endpoint }),
  );
}

async function submitGenerate(
  context: Context,
  options: PutOptions & { prompt: string; system?: string; template?: string; raw?: true },
): Promise<void> {
  const { model, all } = withDefaults(context, options);
  const prompt = await textOf(options.prompt);
  const text = options.system ?? context.config.submit?.system;
  const system = text === undefined ? {} : { system: await textOf(text) };
  const rest = given({ template: options.template, raw: options.raw });
  await submit(context, 'generate', options, all, (endpoint) =>
    generate({ ...all, model, prompt, ...system, ...rest, ...streamed(options), endpoint }),
  );
}

async function submitEmbed(
  context: Context,
  options: PutOptions & { input: string[]; truncate: boolean },
): Promise<void> {
  const { model, all } = withDefaults(context, options);
  const texts = await Promise.all(options.input.map(textOf));
  const input = texts.length === 1 ? (texts[0] as string) : texts;
  const rest = options.truncate ? {} : { truncate: false };
  await submit(context, 'embed', options, all, (endpoint) => embed({ ...all, model, input, ...rest, endpoint }));
}

async function submitRaw(context: Context, options: PutOptions & { data: string }): Promise<void> {
  const data = jsonOf(await textOf(options.data), '--data') as Record<string, unknown>;
  const all = putOf(context, options);
  const endpoint =
    all.endpoint ?? (all.queue === undefined ? undefined : (await context.client.queues.get(all.queue)).endpoint);
  if (endpoint === undefined) throw usage('raw data needs --queue, or --endpoint and a model in the data');
  await deliver(context, { ...all, endpoint, data }, options, { type: 'raw' });
}

async function submit(
  context: Context,
  kind: Kind,
  delivery: Delivery,
  all: Partial<Put> & { model?: string },
  build: (endpoint: string) => Put,
): Promise<void> {
  const { model } = build('').data as { model: string };
  await atEndpoint(context.client, kind, { ...all, model }, (endpoint) =>
    deliver(context, build(endpoint), delivery, { type: kind, model }),
  );
}

/** Ollama and OpenAI both stream what is asked to. */
const streamed = ({ stream }: Delivery) => (stream ? { stream: true } : {});

function withDefaults(context: Context, options: PutOptions) {
  const model = options.model ?? context.config.submit?.model;
  if (model === undefined) throw usage('--model is needed, or submit.model in tasklane.yaml');
  return { model, all: putOf(context, options) };
}

/** The options of a put: the command line's, else those of tasklane.yaml. */
function putOf({ config: { submit = {} } }: Context, options: PutOptions): Partial<Put> {
  return given({
    queue: options.queue ?? submit.queue,
    endpoint: options.endpoint ?? submit.endpoint,
    level: options.level ?? submit.level,
    priority: options.priority ?? (submit.priority as Put['priority']),
    timeout: options.timeout ?? submit.timeout_seconds,
    delay_seconds: options.delay,
    run_at: options.runAt,
    max_attempts: options.maxAttempts ?? submit.max_attempts,
    callback_url: options.callbackUrl,
    metadata: options.metadata,
    idempotency_key: options.idempotencyKey,
  });
}
