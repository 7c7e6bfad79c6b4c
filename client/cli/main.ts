import { EXIT } from './failure.ts';
import { run } from './program.ts';

// A reader that has seen enough, as `head`, is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : EXIT.failed));

process.exitCode = await run(process.argv.slice(2), process);
