import type { PostgresProxy } from './postgres-proxy.ts';

/** What the network between servers and Postgres does now and then. Each is over when the next one comes. */
const FAULTS: Record<string, (proxy: PostgresProxy) => void> = {
  'half of the connections fall silent': (proxy) => proxy.swallow(0.5),
  'all connections fall silent on both sides': (proxy) => proxy.swallow(1, false),
  'everything is late': (proxy) => proxy.delay(100 + Math.random() * 900),
  'some connections are so late that they are given up': (proxy) => proxy.delay(5000, 0.3),
  'Postgres closes its side of some': (proxy) => proxy.halfClose(0.4),
  'some connections are cut': (proxy) => proxy.cut(0.5),
  'new connections hang': (proxy) => {
    proxy.newConnections('hang');
    proxy.swallow(0.3);
  },
  'new connections are refused': (proxy) => {
    proxy.newConnections('refuse');
    proxy.cut(0.5);
  },
  'all is well': () => undefined,
};
export const FAULT_NAMES = Object.keys(FAULTS);

export function disturb(proxy: PostgresProxy, name: string): void {
  calm(proxy);
  FAULTS[name]?.(proxy);
}

/** What is open stays as it is; what comes works. */
export function calm(proxy: PostgresProxy): void {
  proxy.newConnections('work');
  proxy.delay(0);
}
