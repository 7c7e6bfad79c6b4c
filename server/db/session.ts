/**
 * What our sessions need, whatever the database or its role has set: how values are printed, and what a statement may do. Sent as a statement, since
 * poolers refuse most of it among the start-up parameters.
 */
const SETTINGS = {
  datestyle: 'ISO, MDY',
  intervalstyle: 'postgres',
  timezone: 'UTC',
  bytea_output: 'hex',
  standard_conforming_strings: 'on',
  extra_float_digits: '1',
  // Not "$user": a name without its schema must not be found just because the user is called tasklane.
  search_path: 'pg_catalog',
  default_transaction_isolation: 'read committed',
  idle_in_transaction_session_timeout: '60s',
};

/** Postgres looks so often whether we still wait for a statement; on Windows, and before 14, it can't. */
const LOOK = `case when version() !~* 'windows|mingw|visual c' and current_setting('server_version_num')::int >= 140000
  then set_config('client_connection_check_interval', '2s', false) end`;

/** One statement that says all of it, and gives the session's `pid`; `statementTimeout` as Postgres writes it. */
export function sessionSettings(statementTimeout: string): string {
  const settings = Object.entries({ ...SETTINGS, statement_timeout: statementTimeout });
  return `select ${settings.map(([name, value]) => `set_config('${name}', '${value}', false)`).join(', ')}, ${LOOK}, pg_backend_pid() as pid`;
}
