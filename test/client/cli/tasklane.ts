import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { spawn as spawnInTerminal } from '@lydell/node-pty';
import { run } from '../../../client/cli/program.ts';

export const MAIN = join(import.meta.dirname, '..', '..', '..', 'client', 'cli', 'main.ts');
const TERMINAL = { name: 'xterm-256color', cols: 80, rows: 24 };

export type Ended = { code: number | null; stdout: string; stderr: string };

/** The words of a command as it is typed; double quotes keep spaces. */
export const words = (line: string): string[] =>
  [...line.matchAll(/"([^"]*)"|\S+/g)].map(([word, quoted]) => quoted ?? word);

/** Runs `tasklane` as people install it: with none of this process' own settings. */
export function cli(cwd: string, settings: Record<string, string>) {
  const own = /^(TASKLANE_|NODE_|XDG_|DATABASE_URL$|PORT$|HOST$|NO_COLOR$)/;
  const inherited = Object.entries(process.env).filter(([name]) => name === 'NODE_COMPILE_CACHE' || !own.test(name));
  const environment = { ...Object.fromEntries(inherited), HOME: cwd, ...settings } as Record<string, string>;

  const running = new Set<ChildProcess>();
  const killAll = () => {
    for (const child of running) child.kill('SIGKILL');
  };
  process.once('exit', killAll);

  /** A process that goes on; its output is gathered. */
  const start = (line: string, options: { env?: Record<string, string>; input?: string } = {}) => {
    const child = spawn(process.execPath, [MAIN, ...words(line)], { cwd, env: { ...environment, ...options.env } });
    running.add(child);
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        output[name] += text;
        child.emit('output');
      });
    }
    child.stdin.end(options.input ?? '');
    const ended = once(child, 'close').then(([code]): Ended => {
      running.delete(child);
      return { code, ...output };
    });
    return {
      ended,
      kill: (signal: NodeJS.Signals) => child.kill(signal),
      /** What a pattern finds in the output, once it does. Rejects when the process ends before. */
      async shows(pattern: RegExp): Promise<RegExpExecArray> {
        for (;;) {
          const found = pattern.exec(output.stdout + output.stderr);
          if (found) return found;
          const more = once(child, 'output').then(() => undefined);
          const end = await Promise.race([more, ended]);
          if (end) throw new Error(`ended with ${end.code} before ${pattern}: ${end.stdout}${end.stderr}`);
        }
      },
    };
  };

  return {
    start,
    /** Whatever still runs, of a test that failed. */
    killAll,
    /** Runs it to its end. */
    run: (line: string, options?: Parameters<typeof start>[1]): Promise<Ended> => start(line, options).ended,
    /** The same in a terminal of 80 columns. */
    terminal(line: string) {
      const pty = spawnInTerminal(process.execPath, [MAIN, ...words(line)], { ...TERMINAL, cwd, env: environment });
      let screen = '';
      let looking: () => void = () => undefined;
      pty.onData((text) => {
        screen += text;
        looking();
      });
      const ended = new Promise<{ code: number; screen: string }>((resolve) => {
        pty.onExit(({ exitCode }) => resolve({ code: exitCode, screen }));
      });
      return {
        type: (keys: string) => pty.write(keys),
        ended,
        async shows(pattern: RegExp): Promise<string> {
          while (!pattern.test(screen)) {
            const more = new Promise<undefined>((resolve) => {
              looking = () => resolve(undefined);
            });
            const end = await Promise.race([more, ended]);
            if (end && !pattern.test(screen)) throw new Error(`ended with ${end.code} before ${pattern}: ${screen}`);
          }
          return screen;
        },
      };
    },
  };
}

/** Runs a command line in this process, whose environment and folder it has then: a process of its own costs a hundred times as much. */
export async function runHere(line: string): Promise<Ended> {
  const printed = { stdout: '', stderr: '' };
  const stream = (name: keyof typeof printed) => ({
    isTTY: false,
    columns: 80,
    write: (text: string) => {
      printed[name] += text;
      return true;
    },
  });
  const code = await run(words(line), { stdout: stream('stdout'), stderr: stream('stderr') });
  return { code, ...printed };
}
