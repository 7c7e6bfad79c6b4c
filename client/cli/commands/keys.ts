import { type Command, Option } from 'commander';
import type { Role } from '../../types.ts';
import { each, given, ROLES } from '../arguments.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';
import { ago } from '../times.ts';

export function define(command: Command, act: Act): void {
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('all keys, without their secrets (the default)')
    .action(act(list));
  command
    .command('create')
    .description('print the secret of a new key, this once')
    .addOption(
      new Option('--role <role>', 'client puts tasks, worker takes them, admin does all')
        .choices(ROLES)
        .default('client'),
    )
    .option('--tenant <tenant>', 'whose it is (default: default)')
    .option('--name <name>', 'to know it again')
    .addHelpText('after', '\nExample:\n  export TASKLANE_API_KEY=$(tasklane keys create --role worker --name gpu-1)')
    .action(act(create));
  command
    .command('revoke')
    .description('make keys useless, on all servers')
    .argument('<id...>')
    .action(
      act(({ client, out }: Context, ids: string[]) => each(out, ids, 'revoked', (id) => client.keys.revoke(id))),
    );
}

async function list({ client, out }: Context): Promise<void> {
  const keys = await client.keys.list();
  await out.either(keys, async () => {
    if (keys.length === 0) return out.print('No keys but that of the admin');
    await out.table(
      [
        { head: 'ID' },
        { head: 'ROLE' },
        { head: 'TENANT', cut: true },
        { head: 'NAME', cut: true },
        { head: 'CREATED' },
      ],
      keys.map(({ id, role, tenant, name, created_at }) => [id, role, tenant, name, ago(created_at)]),
    );
  });
}

async function create(
  { client, out }: Context,
  { role, tenant, name }: { role: Role; tenant?: string; name?: string },
): Promise<void> {
  const key = await client.keys.create({ role, ...given({ tenant, name }) });
  await out.either(key, () => {
    out.print(key.key);
    out.note(`${key.id}, role ${key.role}, tenant ${key.tenant}: the secret is shown this once`);
  });
}
