// `test` with one fixture more: Prisma's client on this test's own PostgreSQL.

import { PrismaPg } from '@prisma/adapter-pg';
import { test as base } from 'velo-node/vitest';
import { PrismaClient } from '../generated/client.js';

export const test = base.extend<{ db: PrismaClient }>({
  db: async ({ branch }, use) => {
    const db = new PrismaClient({ adapter: new PrismaPg({ connectionString: branch.url }) });
    await use(db);
    await db.$disconnect();
  },
});
