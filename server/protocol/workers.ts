import { z } from 'zod';
import { laneName, mapped, shortText } from './names.ts';

const MAX_UPSTREAMS = 64;
const MAX_QUEUES = 1000;
const STATES = ['healthy', 'refusing', 'failing', 'away'] as const;
const END_OF_TIME = 8_640_000_000_000_000;

/** Text of somebody else's: what Postgres can't store becomes U+FFFD, and what is too long is cut. */
const clean = (text: string, max: number): string => text.slice(0, max).toWellFormed().replaceAll('\0', '\ufffd');
const cleanText = (max: number) => mapped(z.string(), (text) => clean(text, max));
/** An address may carry a password or a key, which others must not see. */
const address = mapped(z.string(), (url) =>
  clean(url, 2048)
    .replace(/[?#].*$/s, '')
    .replace(/\/\/[^/]*@/, '//'),
);
const count = z.int().min(0).max(1_000_000_000);

const upstream = z.object({
  url: address,
  state: z.enum(STATES),
  /** Epoch milliseconds: since when it is in this state. */
  since: z.int().min(0).max(END_OF_TIME),
  /** What it answered last in this state, if it answered at all. */
  status: z.int().min(100).max(599).nullish(),
  message: cleanText(512).nullish(),
  in_flight: count,
  limit: count,
  /** Of which queues it gets tasks; all of the worker's where they are left out. */
  queues: z.array(cleanText(64)).max(MAX_QUEUES).nullish(),
});

/** What a worker says of itself, in its takes and its heartbeats. */
export const workerSays = z.looseObject({
  id: shortText(200).min(1),
  name: shortText(200).nullish(),
  host: cleanText(200).nullish(),
  /** How many tasks of a lane it has room for. */
  capacities: z
    .record(laneName, z.int().min(0).max(1_000_000))
    .refine((lanes) => Object.keys(lanes).length <= 1000, 'at most 1,000 lanes')
    .nullish(),
  /** The first 64 of them are kept. */
  upstreams: mapped(z.array(upstream), (all) => all.slice(0, MAX_UPSTREAMS)).nullish(),
  /** It takes nothing more. */
  stopping: z.boolean().nullish(),
});
export type WorkerSays = z.infer<typeof workerSays>;
export type Upstream = z.infer<typeof upstream>;
