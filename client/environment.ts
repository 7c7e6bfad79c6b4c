/** Where the server is and who asks: options first, then TASKLANE_URL and TASKLANE_API_KEY, then a server on this machine. */
export type ServerOptions = {
  /** `http://127.0.0.1:8080` by default; a path before `/v1` is kept, and a `/v1` at its end is not needed. */
  baseUrl?: string | undefined;
  apiKey?: string | undefined;
};

export type ServerAddress = { baseUrl: string; apiKey: string | undefined };

/** Throws TypeError for a base URL that is none. There need be no `process`: the client runs in browsers too. */
export function findServer(options: ServerOptions): ServerAddress {
  const env: Record<string, string | undefined> = globalThis.process?.env ?? {};
  const given = options.baseUrl ?? (env.TASKLANE_URL || 'http://127.0.0.1:8080');
  let url: URL;
  try {
    url = new URL(given);
  } catch {
    throw new TypeError(`baseUrl: ${JSON.stringify(given)} is not a URL`);
  }
  if (!/^https?:$/.test(url.protocol)) throw new TypeError(`baseUrl: ${JSON.stringify(given)} is not an http(s) URL`);
  const path = url.pathname.replace(/\/+$/, '').replace(/\/v1$/, '');
  return { baseUrl: url.origin + path, apiKey: options.apiKey ?? (env.TASKLANE_API_KEY || undefined) };
}
