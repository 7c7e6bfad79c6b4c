import type { EngineLoad } from '../worker/limit.ts';
import { textOf, wholeOf } from './reply-text.ts';
import { send } from './request.ts';

const TIMEOUT_MS = 2000;
const LARGEST_REPLY = 1024 * 1024;
/** Until an engine that has told nothing is asked again. */
const SILENT_MS = 600_000;

/** Where engines tell their load, and how often it is asked for while there is work. */
const PLACES: { path: string; read: (text: string) => EngineLoad | undefined; everyMs: number }[] = [
  { path: '/props', read: totalSlots, everyMs: 30_000 },
  { path: '/slots', read: slots, everyMs: 30_000 },
  { path: '/metrics', read: gauges, everyMs: 2000 },
];

/** Tells the load of an engine, as far as it is one that does. `look` is called as often as there is work; it asks seldom, and waits for nothing. */
export function createEngine(
  base: URL,
  headers: Record<string, string>,
  tell: (load: EngineLoad) => void,
  now: () => number = () => performance.now(),
) {
  let place: (typeof PLACES)[number] | undefined;
  let nextAt = Number.NEGATIVE_INFINITY;

  const ask = async ({ path, read }: (typeof PLACES)[number]): Promise<EngineLoad | undefined> => {
    const url = Object.assign(new URL(base), { pathname: base.pathname.replace(/(\/v1)?\/*$/, path) });
    try {
      const text = await get(url, headers);
      return text === undefined ? undefined : read(text);
    } catch {
      return undefined;
    }
  };
  const look = async () => {
    nextAt = Number.POSITIVE_INFINITY;
    let load: EngineLoad | undefined;
    const places = place === undefined ? PLACES : [place];
    place = undefined;
    for (const one of places) {
      load = await ask(one);
      if (load !== undefined) {
        place = one;
        break;
      }
    }
    nextAt = now() + (place?.everyMs ?? SILENT_MS);
    tell(load ?? {});
  };
  return {
    look(): void {
      if (now() >= nextAt) void look();
    },
  };
}

/** The text of a reply with status 200. Throws where there is too much of it. */
async function get(url: URL, headers: Record<string, string>): Promise<string | undefined> {
  const reply = await send('GET', url, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (reply.statusCode !== 200) {
    reply.resume().on('error', () => undefined);
    return undefined;
  }
  return wholeOf(textOf(reply), LARGEST_REPLY);
}

/** vLLM, SGLang, llama-server with `--metrics`: Prometheus' text format. */
export function gauges(text: string): EngineLoad | undefined {
  const waiting =
    sumOf(text, 'vllm:num_requests_waiting') ??
    sumOf(text, 'sglang:num_queue_reqs') ??
    sumOf(text, 'llamacpp:requests_deferred');
  return waiting === undefined ? undefined : { waiting };
}

/** llama-server's `/slots`. */
export function slots(text: string): EngineLoad | undefined {
  const all: unknown = JSON.parse(text);
  const isSlot = (one: unknown) => typeof (one as { is_processing?: unknown } | null)?.is_processing === 'boolean';
  return Array.isArray(all) && all.length > 0 && all.every(isSlot) ? { places: all.length } : undefined;
}

/** llama-server's `/props`. */
export function totalSlots(text: string): EngineLoad | undefined {
  const places = (JSON.parse(text) as { total_slots?: unknown } | null)?.total_slots;
  return Number.isInteger(places) && (places as number) >= 1 ? { places: places as number } : undefined;
}

/** A gauge's samples of all labels together. */
function sumOf(text: string, name: string): number | undefined {
  let sum: number | undefined;
  for (const line of text.split('\n')) {
    if (!line.startsWith(name)) continue;
    const [, value] = /^(?:\{.*\})?[ \t]+(\S+)/.exec(line.slice(name.length)) ?? [];
    const number = Number(value);
    if (value !== undefined && Number.isFinite(number) && number >= 0) sum = (sum ?? 0) + number;
  }
  return sum;
}
