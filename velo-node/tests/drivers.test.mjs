// What people reach a branch with.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import knex from 'knex';
import pg from 'pg';
import postgres from 'postgres';
import { DataSource } from 'typeorm';
import { Branch } from 'velo-node';
import { end, project as make, query } from './support.mjs';

let branch;
before(async () => {
  branch = await Branch.create(await make());
});
after(async () => {
  await branch.close();
  await end();
});

test('pg', async () => {
  assert.deepEqual(await query(branch.url, 'SELECT 1 AS one'), [{ one: 1 }]);
  assert.deepEqual(await query(branch.socketUrl, 'SELECT 1 AS one'), [{ one: 1 }]);
  const pool = new pg.Pool({ connectionString: branch.url });
  assert.equal((await pool.query('SELECT 1 AS one')).rows[0].one, 1);
  await pool.end();
});

test('postgres.js', async () => {
  const db = postgres(branch.url);
  assert.deepEqual([...(await db`SELECT 1 AS one`)], [{ one: 1 }]);
  await db.end();
});

test('Drizzle', async () => {
  const pool = new pg.Pool({ connectionString: branch.url });
  assert.deepEqual((await drizzle(pool).execute(sql`SELECT 1 AS one`)).rows, [{ one: 1 }]);
  await pool.end();
});

test('Knex', async () => {
  const db = knex({ client: 'pg', connection: branch.url });
  assert.deepEqual((await db.raw('SELECT 1 AS one')).rows, [{ one: 1 }]);
  await db.destroy();
});

test('TypeORM', async () => {
  const db = await new DataSource({ type: 'postgres', url: branch.url }).initialize();
  assert.deepEqual(await db.query('SELECT 1 AS one'), [{ one: 1 }]);
  await db.destroy();
});
