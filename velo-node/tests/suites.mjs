// Suites that the tests of the hooks run, in folders of their own below this one, where the installed packages are found.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Project } from 'velo-node';
import { HERE } from './support.mjs';

export const SEED = `
const pg = require('pg');

module.exports = async (branch) => {
  const db = new pg.Client(branch.url);
  await db.connect();
  await db.query('CREATE TABLE orders (id int PRIMARY KEY, paid bool)');
  await db.query('CREATE TABLE builds AS SELECT pg_backend_pid()');
  await db.end();
};
`;

/** What each test does: whatever another one left would be in the way. */
export const BODY = `
    const db = new pg.Client(branch.url);
    await db.connect();
    await db.query('INSERT INTO orders VALUES (1, false)');
    await db.query('UPDATE orders SET paid = true');
    const { rows } = await db.query('SELECT count(*)::int AS n, bool_and(paid) AS paid FROM orders');
    const builds = await db.query('SELECT count(*)::int AS n FROM builds');
    await db.end();
    if (rows[0].n !== 1 || !rows[0].paid || builds.rows[0].n !== 1) throw new Error('somebody else was here');
`;

/** A folder with these files. `end` removes it and its project. */
export function suite(files) {
  const parent = path.join(HERE, 'suites');
  mkdirSync(parent, { recursive: true });
  const folder = mkdtempSync(path.join(parent, 's-'));
  const put = (name, text) => {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), text);
  };
  for (const [name, text] of Object.entries({ 'package.json': '{"private": true}', 'velo.seed.js': SEED, ...files })) {
    put(name, text);
  }
  return { folder, put, remove: (name) => rmSync(path.join(folder, name)) };
}

/** The project of a suite, if it has one. */
export async function projectOf({ folder }) {
  const word = path.basename(folder).toLowerCase().replace(/[^a-z0-9]+/g, '-');
  const found = (await Project.list()).find(({ name }) => name.startsWith(word.slice(0, 40)));
  return found && Project.open(found.name);
}
