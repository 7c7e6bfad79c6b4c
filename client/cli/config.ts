import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { type FileConfig, parseConfig, SERVER_KEYS } from './config-file.ts';
import { usage } from './failure.ts';

const DEFAULT_URL = 'http://127.0.0.1:8080';

export type Flags = { config?: string; url?: string; apiKey?: string };

/** What the file, the environment and the flags say; the later wins. */
export type Config = FileConfig & { url: string };

/** A variable that is empty counts as unset. */
export const environment = (name: string): string | undefined => process.env[name] || undefined;

/** Whether people want no colours: https://no-color.org. */
export const noColour = (): boolean => environment('NO_COLOR') !== undefined;

/** Throws Failure for a file that can't be read, has an unknown key, or a value of the wrong kind. */
export async function loadConfig(flags: Flags): Promise<Config> {
  const path = flags.config ?? usualPaths().find((candidate) => existsSync(candidate));
  const file = path === undefined ? {} : await parseConfig(read(path), path, environment);
  const url = flags.url ?? environment('TASKLANE_URL') ?? file.url ?? DEFAULT_URL;
  const key = flags.apiKey ?? environment('TASKLANE_API_KEY') ?? file.api_key ?? ownAdminKey(url, dataDir(file));
  return { ...file, url, ...(key === undefined ? {} : { api_key: key }) };
}

/** Whether a server there runs on this machine. */
export function isLocal(url: string): boolean {
  const host = URL.canParse(url) ? new URL(url).hostname : '';
  return host === 'localhost' || host === '[::1]' || /^127(\.\d+){3}$/.test(host);
}

/** Where an embedded Postgres would be. */
export const dataDir = (config: FileConfig): string =>
  environment('TASKLANE_DATA_DIR') ?? config.serve?.data_dir ?? '.tasklane';

/** Sets what the server reads: from flags, else what the environment has already, else from the file. */
export function setServerEnvironment(config: FileConfig, flags: FileConfig['serve'] = {}): void {
  for (const [key, name] of Object.entries(SERVER_KEYS)) {
    const flag = flags[key as keyof typeof flags];
    const value = flag ?? environment(name) ?? config.serve?.[key as keyof typeof flags];
    if (value !== undefined) process.env[name] = String(value);
  }
}

function usualPaths(): string[] {
  const own = environment('XDG_CONFIG_HOME') ?? join(homedir(), '.config');
  return ['tasklane.yaml', 'tasklane.yml', join(own, 'tasklane', 'tasklane.yaml'), '/etc/tasklane/tasklane.yaml'];
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw usage(`${path}: ${(error as Error).message}`);
  }
}

/** The key that a server with an embedded Postgres made for itself: whoever can read it here is its admin anyway. */
function ownAdminKey(url: string, directory: string): string | undefined {
  if (!isLocal(url)) return undefined;
  try {
    return readFileSync(join(directory, 'admin.key'), 'utf8').trim();
  } catch {
    return undefined;
  }
}
