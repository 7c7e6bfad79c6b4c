import { availableParallelism } from 'node:os';
import { type Command, Option } from 'commander';
import { NotFoundError } from '../../errors.ts';
import type { Strategy } from '../../types.ts';
import { commaList, given, integer, many } from '../arguments.ts';
import { environment } from '../config.ts';
import type { Context } from '../context.ts';
import { EXIT, Failure, usage } from '../failure.ts';
import type { Act } from '../families.ts';

const STRATEGIES = ['fifo', 'round_robin', 'active_passive', 'sequential'];
const OLLAMA = 'http://127.0.0.1:11434';

type Options = {
  upstream?: string[];
  queues?: string[];
  executor?: string;
  concurrency?: number | 'auto';
  strategy?: Strategy;
  endpoint?: string;
  reserve?: number;
  prefetch?: number;
  lease?: number;
  drain?: number;
  timeout?: number;
  name?: string;
  upstreamKey?: string;
  model?: string;
  keepAlive?: string;
  pull: boolean;
  allowCommand?: true;
};

const concurrency = (given: string) => (given === 'auto' ? given : integer(1)(given));

export function define(command: Command, act: Act): void {
  command
    .argument('[argv...]', 'after --: the program that the executor command runs, and its arguments')
    .option('--upstream <url>', 'a model server; give it again for more', many)
    .option('--queues <lanes>', 'lanes to take from, as q:0,q:1; those of level 0 go first', commaList)
    .option('--executor <name>', 'openai (vLLM, SGLang, llama.cpp, any that speaks it), ollama, http or command')
    .option('--concurrency <n>', 'calls at once for each upstream; auto finds it', concurrency)
    .addOption(new Option('--strategy <strategy>', 'which tasks first').choices(STRATEGIES))
    .option('--endpoint <endpoint>', 'registers queues that are not, and passes over those of another one')
    .option('--reserve <n>', 'room that is kept free for level 0', integer())
    .option('--prefetch <n>', 'tasks at hand before there is room for them', integer())
    .option('--lease <seconds>', 'after so long the tasks of a worker that died go back', integer(1, 86_400))
    .option('--drain <seconds>', 'what it takes at most to stop; what has not ended then is given back', integer())
    .option('--timeout <seconds>', 'how long one call may take', integer(1))
    .option('--name <name>', 'shown beside its tasks; one process on a host has it')
    .option('--upstream-key <key>', "the model servers' key; also TASKLANE_UPSTREAM_KEY")
    .option('--model <model>', 'what the model servers are asked for, in place of what the task names')
    .option('--keep-alive <time>', 'how long Ollama keeps a model loaded; for its own endpoints, /api/…, alone')
    .option('--no-pull', 'let Ollama fetch no model')
    .option('--allow-command', 'lets the executor command run programs')
    .addHelpText(
      'after',
      `
It prints one line when it is ready, and logs to stderr. SIGTERM and Ctrl-C give back what has not begun, and end what has; once more ends it at once.

Examples:
  tasklane worker --upstream http://127.0.0.1:8000 --queues llama3:0,llama3:1 --endpoint /v1/chat/completions
  tasklane worker --executor ollama --queues llama2:0 --concurrency 2
  tasklane worker --executor command --allow-command --queues thumbnails:0 -- ./thumbnail --json`,
    )
    .action(act(work));
}

async function work(context: Context, argv: string[], options: Options): Promise<void> {
  const { config, out } = context;
  const { createExecutor, createWorker } = await import('../../worker.ts');
  const log = (line: string) => out.note(`${new Date().toISOString()} ${line}`);
  const settings = settingsOf(context, argv, options);
  const { queues, executor: name, upstreams, concurrency, endpoint } = settings;
  const worker = await orUsage(() => {
    const { timeoutSeconds, model, keepAlive, pull, allowCommand, command } = settings;
    // An executor refuses what it has no use for.
    const executor = createExecutor(name, {
      ...given({ timeoutSeconds, model, keepAlive, pull, concurrency }),
      ...(name === 'command' ? { command, enabled: allowCommand } : { upstreams, log }),
    });
    const { reserve, prefetch, strategy, leaseSeconds, drainSeconds } = settings;
    return createWorker({
      baseUrl: config.url,
      apiKey: config.api_key ?? '',
      queues,
      executor,
      ...given({ name: settings.name, reserve, prefetch, strategy, leaseSeconds, drainSeconds, endpoint }),
      handleSignals: false,
      log,
    });
  });

  let stopping = false;
  const stopped = new Promise<void>((resolve) => {
    const stop = (signal: string) => {
      if (stopping) process.exit(EXIT.failed);
      stopping = true;
      log(`${signal}: gives back what has not begun, and ends what has`);
      void worker.stop().then(resolve, resolve);
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
  });
  const started = worker.start().then(() => {
    if (stopping) return stopped;
    const to = name === 'command' ? settings.command.join(' ') : upstreams.map(({ url }) => url).join(', ');
    out.print(
      `tasklane worker ${settings.name ?? worker.id} ready: ${queues.join(', ')} from ${config.url} to ${to}, concurrency ${concurrency}`,
    );
    return stopped;
  });
  await Promise.race([stopped, started]).catch((error) => {
    throw unregistered(error);
  });
  // Connections that are kept open would hold it.
  process.exit(0);
}

/** The command line, else the file; an upstream of the command line replaces those of the file. */
function settingsOf({ config: { worker: file = {} } }: Context, argv: string[], options: Options) {
  const queues = options.queues ?? file.queues;
  if (queues === undefined)
    throw usage('--queues is needed, or worker.queues in tasklane.yaml', 'as in: --queues llama3:0,llama3:1');
  const command = argv.length > 0 ? argv : (file.command ?? []);
  const executor = options.executor ?? file.executor ?? 'openai';
  const key = options.upstreamKey ?? environment('TASKLANE_UPSTREAM_KEY');
  const urls = options.upstream ?? (file.upstreams === undefined && executor === 'ollama' ? [OLLAMA] : undefined);
  const upstreams = (urls?.map((url): Upstream => ({ url })) ?? file.upstreams ?? []).map((one, index) => {
    if (one.url === undefined) throw usage(`worker.upstreams[${index}] has no url`);
    return { url: one.url, ...given({ apiKey: one.api_key ?? key, queues: one.queues, concurrency: one.concurrency }) };
  });
  if (executor !== 'command' && upstreams.length === 0)
    throw usage('--upstream is needed, or worker.upstreams in tasklane.yaml');
  const allowCommand = options.allowCommand ?? file.allow_command ?? false;
  if (executor === 'command' && !allowCommand)
    throw usage(
      'the executor command runs programs: allow it by --allow-command, or worker.allow_command in tasklane.yaml',
    );
  if (executor === 'command' && command.length === 0)
    throw usage('the executor command needs a program: -- program arguments');
  return {
    queues,
    executor,
    upstreams,
    command,
    concurrency: options.concurrency ?? file.concurrency ?? (executor === 'command' ? availableParallelism() : 'auto'),
    strategy: options.strategy ?? file.strategy,
    endpoint: options.endpoint ?? file.endpoint,
    reserve: options.reserve ?? file.reserve,
    prefetch: options.prefetch ?? file.prefetch,
    leaseSeconds: options.lease ?? file.lease_seconds,
    drainSeconds: options.drain ?? file.drain_seconds,
    timeoutSeconds: options.timeout ?? file.timeout_seconds,
    name: options.name ?? file.name,
    model: options.model ?? file.model,
    keepAlive: options.keepAlive ?? file.keep_alive,
    pull: options.pull === false ? false : file.pull,
    allowCommand,
  };
}

type Upstream = NonNullable<NonNullable<Context['config']['worker']>['upstreams']>[number];

/** What cannot be, the command line or the file has said. */
async function orUsage<Value>(make: () => Value | Promise<Value>): Promise<Value> {
  try {
    return await make();
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) throw usage(error.message);
    throw error;
  }
}

function unregistered(error: unknown): unknown {
  if (!(error instanceof NotFoundError)) return error;
  const name = /"(.+)"/.exec(error.message)?.[1] ?? 'NAME';
  const hint = `let --endpoint register it, or run: tasklane queues register ${name} --endpoint /v1/chat/completions`;
  return new Failure(error.message, EXIT.notFound, hint);
}
