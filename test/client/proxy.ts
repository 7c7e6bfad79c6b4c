import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What becomes of a request on its way. `lose`: it arrives, and its reply is lost. `cut`: its reply breaks off after its first bytes. */
export type Fate = 'pass' | 'lose' | 'cut' | { status: number; headers?: Record<string, string> };

/** A proxy before a server, which does to each request what `fate` says. */
export async function startProxy(target: string, fate: (req: IncomingMessage) => Fate) {
  const { hostname, port } = new URL(target);
  const requests: string[] = [];
  let open = 0;
  const server = createServer((req, res) => {
    open++;
    res.on('close', () => open--);
    requests.push(`${req.method} ${req.url?.split('?')[0]}`);
    const what = fate(req);
    if (typeof what === 'object') {
      res.writeHead(what.status, what.headers).end(JSON.stringify({ message: 'made up by the proxy' }));
      return;
    }
    forward(req, res, what);
  });
  const forward = (req: IncomingMessage, res: ServerResponse, what: Fate) => {
    const onward = request({ hostname, port, path: req.url, method: req.method, headers: req.headers }, (reply) => {
      if (what === 'lose') {
        reply.resume().on('end', () => res.destroy());
        return;
      }
      res.writeHead(reply.statusCode ?? 500, reply.headers);
      res.flushHeaders();
      reply.on('data', (bytes: Buffer) => {
        res.write(bytes);
        if (what === 'cut') res.destroy();
      });
      reply.on('end', () => res.end());
    });
    onward.on('error', () => res.destroy());
    res.on('close', () => onward.destroy());
    req.pipe(onward);
  };
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    /** How many replies are under way. */
    get open() {
      return open;
    },
    async stop(): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
