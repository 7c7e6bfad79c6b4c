import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Claimed,
  claimBatches,
  endLines,
  expandBatch,
  failBatch,
  type Line,
  type LinesPlace,
  startBatch,
  touchBatch,
  writeBatch,
} from '../db/batches.ts';
import { readEndpoints } from '../db/models.ts';
import type { Database } from '../db/open.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { checkLines, lineOf } from './check-lines.ts';
import { type InputLine, readLines } from './read-lines.ts';

/** What one transaction carries of an input. */
const EXPAND_LINES = 2000;
const EXPAND_BYTES = 1 << 20;
const END_LINES = 2000;
const WRITE_LINES = 1000;
const LOOK_AGAIN_MS = 50;

/**
 * What must be done for batches: look at their lines, make tasks of them, end those of one that is cancelled or has expired, write the files.
 * Each step is one transaction that moves the batch on from where it stands; so it may be done by any server, by two at once, and again.
 */
export function createBatchWork(deps: {
  db: Database;
  maxLines: number;
  maxLineBytes: number;
  stopping: AbortSignal;
  /** Lets the next lines wait in ready. */
  topUp(laneIds: readonly number[]): Promise<void>;
  fold(): Promise<void>;
  freed(lane: string, limited: boolean): void;
  /** A batch ended, of which webhooks may be told. */
  onCallbacks(): void;
}) {
  const { db, maxLines, maxLineBytes, stopping, topUp, fold, freed, onCallbacks } = deps;

  const linesOf = (file: string, from: number) => readLines(db, file, from, maxLineBytes);

  const check = (
    input: { file: string; endpoint: string; hasQueue: boolean },
    lines: AsyncIterable<InputLine[]> = linesOf(input.file, 0),
  ) =>
    checkLines(lines, {
      endpoint: input.endpoint,
      hasQueue: input.hasQueue,
      maxLines,
      maxLineBytes,
      endpointsOf: (models) => readEndpoints(db, models),
    });

  const begin = async (batch: Claimed): Promise<void> => {
    const { batch_id: id, input_file: file, endpoint } = batch;
    let wanted = true;
    async function* whileWanted() {
      for await (const group of linesOf(file, 0)) {
        stopping.throwIfAborted();
        wanted = await touchBatch(db, id);
        if (!wanted) return;
        yield group;
      }
    }
    const checked = await check({ file, endpoint, hasQueue: batch.queue_id !== null }, whileWanted());
    if (!wanted) return;
    if (checked.errors.length > 0) {
      await failBatch(db, id, checked.errors);
      onCallbacks();
      return;
    }
    await startBatch(db, id, checked.models).catch((error) => {
      // A channel has gone meanwhile: its lines are found faulty at the next look.
      if (!(error instanceof TasklaneError && error.status === 409)) throw error;
    });
  };

  /** Whether this server expanded the batch to its end. */
  const expand = async (batch: Claimed): Promise<boolean> => {
    let at = Number(batch.read_to);
    let to = at;
    let bytes = 0;
    let lines: Line[] = [];
    const put = async (last: boolean) => {
      stopping.throwIfAborted();
      const lanes = await expandBatch(db, batch.batch_id, at, to, lines, last);
      if (!lanes) return false;
      [at, bytes, lines] = [to, 0, []];
      await topUp(lanes);
      return true;
    };
    for await (const group of linesOf(batch.input_file, at)) {
      for (const line of group) {
        lines.push(lineOf(line));
        bytes += line.ends - to;
        to = line.ends;
        if ((lines.length >= EXPAND_LINES || bytes >= EXPAND_BYTES) && !(await put(false))) return false;
      }
    }
    return put(true);
  };

  const endAll = async ({ batch_id: id }: Claimed): Promise<void> => {
    let place: LinesPlace = { p_lane_id: 0, p_after: '0' };
    while (place.p_lane_id !== null) {
      stopping.throwIfAborted();
      const ended = await endLines(db, id, place, END_LINES);
      for (const { lane, limited } of ended.freed) freed(lane, limited);
      place = ended.next;
      await touchBatch(db, id);
    }
    await fold();
  };

  return {
    check,

    /** Does what there is to do for a batch, as far as that goes now. */
    async work(id: string): Promise<void> {
      while (!stopping.aborted) {
        const [batch] = await claimBatches(db, [id], 0);
        if (!batch) return;
        const open = batch.total - batch.completed - batch.failed - batch.unanswered;
        if (batch.status === 'validating') await begin(batch);
        else if (batch.total > 0 && !batch.expanded) {
          // Somebody else is at it, and will go on.
          if (!(await expand(batch))) return;
        } else if (open > 0) {
          await endAll(batch);
          // A line that was just moving is found by another look.
          await sleep(LOOK_AGAIN_MS);
        } else {
          while (await writeBatch(db, id, WRITE_LINES)) if (stopping.aborted) return;
          onCallbacks();
        }
      }
    },
  };
}
