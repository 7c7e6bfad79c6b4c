import { loadConfig } from '../server/config.ts';
import { startEmbeddedPostgres } from '../server/db/embedded.ts';
import { migrate } from '../server/db/migrate.ts';
import { createLogger } from '../server/observe/logger.ts';

// Brings the database up to date without starting a server, say before a deployment; the server does the same at every start.
async function main(): Promise<void> {
  const config = loadConfig();
  const embedded =
    config.DATABASE_URL === undefined
      ? await startEmbeddedPostgres({
          dataDir: config.TASKLANE_DATA_DIR,
          owner: 'npm run db:migrate',
          log: createLogger('warn'),
        })
      : undefined;
  try {
    const applied = await migrate(config.TASKLANE_DIRECT_URL ?? config.DATABASE_URL ?? (embedded?.url as string));
    console.log(applied.length === 0 ? 'the database is up to date' : `applied ${applied.join(', ')}`);
  } finally {
    await embedded?.stop();
  }
}

main().catch((error: Error) => {
  console.error(`tasklane: ${error.message}`);
  process.exit(1);
});
