// What each test's database begins with: Drizzle's migrations, run once and not again until they or this file change.

import { drizzle } from 'drizzle-orm/node-postgres';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import pg from 'pg';

export default {
  files: ['migrations/**'],
  /** @param {import('velo-node').Branch} branch */
  async build(branch) {
    const pool = new pg.Pool({ connectionString: branch.url });
    await migrate(drizzle(pool), { migrationsFolder: 'migrations' });
    await pool.end();
  },
};
