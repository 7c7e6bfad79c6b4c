/** How long opening a connection may take, and then its first statement. */
export const CONNECT_MS = 5000;
/** How long a call that has much to do may take. Postgres itself ends a statement a little earlier. */
export const LONG_MS = 65_000;
export const STATEMENT_TIMEOUT = '60s';

/** Functions that work through much at a time, or wait for those that do. */
const LONG = new Set([
  // upkeep
  'make_partitions',
  'drop_old_partitions',
  'remove_finished',
  'trim_kept',
  'remove_leftovers',
  'forget_workers',
  'fold_tallies',
  'expire_due',
  'sweep_ready',
  'delete_events',
  'tidy_files',
  // people's calls over many tasks
  'set_queue',
  'register_queue',
  'delete_queue',
  'clear_lane',
  'replay_tasks',
  'purge_dead',
  // batches and files
  'create_batch',
  'start_batch',
  'fail_batch',
  'expand_batch',
  'top_up_lanes',
  'fold_batches',
  'write_batch',
  'copy_failed_lines',
  'read_lines',
  'append_chunk',
  'read_pieces',
  'finish_file',
  'drop_file',
  'delete_file',
  'complete_upload',
]);

/** Whether the function may take long. */
export const isLong = (name: string): boolean => LONG.has(name);
