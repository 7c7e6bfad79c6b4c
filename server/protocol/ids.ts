const PRINTED_TASK = /^TASK-\d{1,10}-\d{1,2}-[BSCP]-(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)-(\d{4})-(\d{6})$/;
const PRINTED_BATCH = /^BATCH-0-1-(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)-(\d{4})-(\d{6})$/;
const EPOCH_SECONDS = Date.UTC(2025, 0, 1) / 1000;

/**
 * The number that a printed task id spells, as a decimal string (it needs 60 bits), or undefined when it is no task id.
 * The same as `tasklane.parse_task_id`; printing is left to SQL alone.
 */
export const parseTaskId = (taskId: string): string | undefined => parse(PRINTED_TASK, taskId);

/** The same for a batch's id and `tasklane.parse_batch_id`. */
export const parseBatchId = (batchId: string): string | undefined => parse(PRINTED_BATCH, batchId);

function parse(printed: RegExp, id: string): string | undefined {
  const part = printed.exec(id);
  if (!part) return undefined;
  const [year, month, day, hour, minute, second] = part.slice(1, 7).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const at = new Date(Date.UTC(2000 + year, month - 1, day, hour, minute, second));
  const real = at.getUTCMonth() === month - 1 && at.getUTCDate() === day && hour < 24 && minute < 60 && second < 60;
  if (!real) return undefined;
  const seconds = at.getTime() / 1000 - EPOCH_SECONDS;
  return (BigInt(seconds) * 10_000_000_000n + BigInt(`${part[7]}${part[8]}`)).toString();
}
