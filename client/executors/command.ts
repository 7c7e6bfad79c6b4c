import { type ChildProcess, spawn } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { delimiter, join } from 'node:path';
import { JsonText, type TaskExecutor, type TaskWrapper } from '../worker/executor.ts';
import { type Concurrency, createLimit, type Outcome } from '../worker/limit.ts';
import { answerTooLarge, TooLarge } from '../worker/too-large.ts';
import { checkNames, checkSeconds } from './options.ts';

export type CommandOptions = {
  /** Must be true: a worker that runs commands has to be meant to. */
  enabled: boolean;
  /** The program and its arguments. No shell reads them. */
  command: readonly string[];
  /** How many at once; as many as there are cores by default. */
  concurrency?: Concurrency | undefined;
  /** Until it is ended, and its task tried again; 600 by default. */
  timeoutSeconds?: number | undefined;
};

/** EX_TEMPFAIL of sysexits.h. */
const TRY_LATER = 75;
const MAX_ERROR = 4000;
const KILL_AFTER_MS = 5000;

// biome-ignore lint/style/noProcessEnv: a command runs in the environment of its worker, but for the worker's key
const { TASKLANE_API_KEY: _, ...ENVIRONMENT } = process.env;

/**
 * Runs a command a task: `data` is on its standard input as JSON, `TASKLANE_TASK_ID`, `TASKLANE_ATTEMPT`, `TASKLANE_QUEUE` and `TASKLANE_ENDPOINT` in its
 * environment, and what it prints is the answer. Exit status 75 says that the task is to be tried again later; any other but 0 is a failure. What it
 * prints for a streaming task is shown line by line.
 */
export function commandExecutor(options: CommandOptions): TaskExecutor {
  checkNames(options, ['enabled', 'command', 'concurrency', 'timeoutSeconds'], 'command');
  const { command } = options;
  const [program, ...args] = command ?? [];
  if (options.enabled !== true) throw new TypeError('the executor command is off: set enabled to true');
  if (program === undefined) throw new TypeError('command: name the program to run');
  const timeoutSeconds = checkSeconds(options.timeoutSeconds ?? 600, 'timeoutSeconds');
  const limit = createLimit(options.concurrency ?? availableParallelism());
  const running = new Set<Promise<void>>();

  const work = async (task: TaskWrapper): Promise<Outcome> => {
    const { stdout, stderr, code, killedBy, isTooLong, isLate } = await run(program, args, task, timeoutSeconds);
    if (task.signal.aborted) return 'ignored';
    const failed = (message: string) =>
      task.markComplete({ status_code: 500, body: { error: { message, exit_code: code } } });
    if (isTooLong) task.markComplete(answerTooLarge(new TooLarge(task.maxAnswerBytes, 'what the command printed')));
    else if (code === 0) task.markComplete({ status_code: 200, body: jsonOr(stdout, (text) => ({ text })) });
    else if (isLate) {
      task.markRetryLater({ reason: `the command did not end within ${timeoutSeconds} seconds` });
      return 'failed';
    } else if (code === TRY_LATER) {
      task.markRetryLater({ reason: stderr || 'the command says to try again later' });
      return 'failed';
    } else if (code === null) {
      task.markRetryLater({ reason: `the command was ended by ${killedBy}` });
      return 'failed';
    } else failed(stderr || `the command ended with ${code}`);
    return 'done';
  };

  return {
    submit(task) {
      const end = limit.begin();
      const done = work(task).then(end, (error) => {
        end('failed');
        task.markRetryLater({ reason: `the command can't be run: ${error.message}` });
      });
      running.add(done);
      return done.finally(() => running.delete(done));
    },
    remainingCapacity: () => Math.max(limit.limit - limit.inFlight, 0),
    check: () => checkProgram(program),
    async close() {
      await Promise.all(running);
    },
  };
}

type Ended = {
  stdout: string;
  /** The last of it. */
  stderr: string;
  code: number | null;
  killedBy: NodeJS.Signals | null;
  isTooLong: boolean;
  isLate: boolean;
};

/** Rejects when it can't be run. */
function run(program: string, args: string[], wrapper: TaskWrapper, timeoutSeconds: number): Promise<Ended> {
  const { task, signal } = wrapper;
  return new Promise((resolve, reject) => {
    // In a process group of its own, so that what it starts can be ended with it.
    const child = spawn(program, args, {
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
      env: {
        ...ENVIRONMENT,
        TASKLANE_TASK_ID: task.task_id,
        TASKLANE_ATTEMPT: String(task.attempt),
        TASKLANE_QUEUE: task.queue,
        TASKLANE_ENDPOINT: task.endpoint,
      },
    });
    let stdout = '';
    let stderr = '';
    let line = '';
    let isTooLong = false;
    let isLate = false;
    let killing: NodeJS.Timeout | undefined;
    const kill = () => {
      killing ??= setTimeout(() => killGroup(child, 'SIGKILL'), KILL_AFTER_MS);
      killGroup(child, 'SIGTERM');
    };
    const late = setTimeout(() => {
      isLate = true;
      kill();
    }, timeoutSeconds * 1000);
    const show = (text: string) => {
      if (text.trim() !== '')
        wrapper.emitProgress(
          'chunk',
          jsonOr(text, (plain) => plain),
        );
    };

    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (isTooLong) return;
      stdout += text;
      if (stdout.length > wrapper.maxAnswerBytes) {
        isTooLong = true;
        stdout = '';
        return kill();
      }
      if (task.response_mode !== 'streaming' || signal.aborted) return;
      const lines = (line + text).split('\n');
      line = lines.pop() as string;
      lines.forEach(show);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-MAX_ERROR);
    });
    // It need not read its input.
    child.stdin.on('error', () => undefined);
    child.stdin.end(wrapper.getPayloadText());

    const over = () => {
      clearTimeout(killing);
      clearTimeout(late);
      signal.removeEventListener('abort', kill);
    };
    signal.addEventListener('abort', kill);
    if (signal.aborted) kill();
    child.on('error', (error) => {
      over();
      reject(error);
    });
    child.on('close', (code, killedBy) => {
      over();
      if (task.response_mode === 'streaming' && !isTooLong && !signal.aborted) show(line);
      resolve({ stdout, stderr: stderr.trim(), code, killedBy, isTooLong, isLate });
    });
  });
}

function killGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(-pid, signal);
  } catch {
    // It has gone.
  }
}

function jsonOr(text: string, otherwise: (text: string) => unknown): unknown {
  try {
    return new JsonText(text);
  } catch {
    return otherwise(text);
  }
}

async function checkProgram(program: string): Promise<void> {
  const places = program.includes('/') ? [''] : (ENVIRONMENT.PATH ?? '').split(delimiter);
  for (const place of places) {
    const found = await access(join(place, program), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return;
  }
  throw new Error(`command: there is no program ${program} to run`);
}
