import { spawn } from 'node:child_process';
import { once } from 'node:events';

const PATIENCE_MS = 30_000;

/** One bash for the blocks of a document: what a block sets, the next ones have. A command that fails ends it. */
export function openShell(options: { cwd: string; env: NodeJS.ProcessEnv }) {
  const bash = spawn('bash', ['-s'], { ...options, stdio: ['pipe', 'pipe', 'pipe'], detached: true });
  const exited = once(bash, 'exit');
  let output = '';
  let errors = '';
  let look = () => {};
  bash.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    look();
  });
  bash.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  // A reply that is no 2xx fails the example; curl by itself is content with any.
  bash.stdin.write('set -eo pipefail\ncurl() { command curl --fail-with-body "$@"; }\nexport -f curl\n');
  let blocks = 0;

  return {
    /** What the block prints. Rejects when one of its commands fails. */
    async run(text: string): Promise<string> {
      const mark = `\n@@ block ${++blocks} is done @@\n`;
      const done = new Promise<string>((resolve) => {
        look = () => {
          const end = output.indexOf(mark);
          if (end < 0) return;
          resolve(output.slice(0, end));
          output = output.slice(end + mark.length);
        };
      });
      bash.stdin.write(`${text}\nprintf '${mark.replaceAll('\n', '\\n')}'\n`);
      let late: NodeJS.Timeout | undefined;
      try {
        return await Promise.race([
          done,
          exited.then(([code]) => {
            throw new Error(`a command failed (bash ended with ${code})\n${output}\n${errors}`);
          }),
          new Promise<never>((_, reject) => {
            late = setTimeout(() => reject(new Error(`no end in sight\n${output}\n${errors}`)), PATIENCE_MS);
          }),
        ]);
      } finally {
        clearTimeout(late);
      }
    },
    /** Ends it, and all that it started. */
    async close(): Promise<void> {
      try {
        process.kill(-(bash.pid as number), 'SIGKILL');
      } catch {
        // Nothing of it runs any more.
      }
      await exited;
    },
  };
}
