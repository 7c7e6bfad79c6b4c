import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The admin's secret in `${dataDir}/admin.key`, made once, readable by its owner alone. */
export async function adminKeyIn(dataDir: string): Promise<{ key: string; path: string }> {
  const path = join(dataDir, 'admin.key');
  try {
    await writeFile(path, `sk-${randomBytes(32).toString('base64url')}\n`, { mode: 0o600, flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return { key: (await readFile(path, 'utf8')).trim(), path };
}
