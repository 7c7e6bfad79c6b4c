import { createHash, hash } from 'node:crypto';
import type { Logger } from 'pino';
import {
  type Batch,
  cancelBatch,
  claimBatches,
  copyFailedLines,
  createBatch,
  explainBatch,
  findBatch,
  foldBatches,
  hasOpenBatches,
  listBatches,
  type NewBatch,
  pauseBatch,
  readResults,
  topUpLanes,
} from '../db/batches.ts';
import type { EndedLane } from '../db/end-tasks.ts';
import type { Database } from '../db/open.ts';
import { repeat } from '../db/repeat.ts';
import { createBatchWork } from './work.ts';
