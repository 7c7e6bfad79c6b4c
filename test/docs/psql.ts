import pg from 'pg';

/** Runs statements as psql does, one by one, and prints their rows as it does. Knows `\gset` and `:'name'` besides SQL. */
export async function openPsql(url: string) {
  // Values as Postgres writes them.
  const client = new pg.Client({ connectionString: url, types: { getTypeParser: () => (value: string) => value } });
  await client.connect();
  const variables = new Map<string, string>();

  return {
    async run(text: string): Promise<string> {
      let printed = '';
      for (const [, sql = '', end] of text.matchAll(/(\S[\s\S]*?)(;|\\gset)[ \t]*\n/g)) {
        const filled = sql.replace(/:'(\w+)'/g, (_, name: string) => pg.escapeLiteral(variables.get(name) ?? ''));
        const { fields, rows } = await client.query({ text: filled, rowMode: 'array' });
        if (end === '\\gset') {
          if (rows.length !== 1) throw new Error(`\\gset needs one row, and got ${rows.length}: ${sql}`);
          for (const [index, field] of fields.entries()) variables.set(field.name, rows[0]?.[index] ?? '');
        } else if (fields.length > 0) {
          const table = [fields.map((field) => field.name), ...rows].map((row: string[]) => row.join(' | '));
          printed += `${table.join('\n')}\n(${rows.length} ${rows.length === 1 ? 'row' : 'rows'})\n\n`;
        }
      }
      return printed;
    },
    close: () => client.end(),
  };
}
