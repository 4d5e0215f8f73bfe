// `test` with one fixture more: Drizzle on this test's own PostgreSQL.

import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { test as base } from 'velo-node/vitest';

export const test = base.extend<{ db: NodePgDatabase }>({
  db: async ({ branch }, use) => {
    const pool = new pg.Pool({ connectionString: branch.url });
    // Its end does not wait until its connections are closed, and the server goes with the test.
    pool.on('error', () => {});
    await use(drizzle(pool));
    await pool.end();
  },
});
