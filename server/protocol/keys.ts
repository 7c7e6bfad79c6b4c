import { z } from 'zod';
import { shortText } from './names.ts';

const ROLES = ['client', 'worker', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export const keyBody = z.object({
  role: z.enum(ROLES),
  tenant: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,64}$/, 'a tenant has 1 to 64 letters, digits, dots, dashes or underscores')
    .default('default'),
  name: shortText(200).default(''),
});
