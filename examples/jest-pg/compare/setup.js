'use strict';
// The same without Velo: a server for the run, in which the migrations make a template database. Its settings are those that
// people give a server for tests.

const { execFileSync } = require('node:child_process');
const { mkdtempSync, readFileSync, readdirSync } = require('node:fs');
const path = require('node:path');
const { Client } = require('pg');

const MIGRATIONS = path.join(__dirname, '../migrations');

module.exports = async () => {
  const bin = process.env.VELO_PG_BIN ?? '';
  const folder = mkdtempSync(path.join(process.env.COMPARE_FOLDER ?? '/tmp', 'compare-'));
  const data = path.join(folder, 'data');
  execFileSync(path.join(bin, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '--no-sync'], { stdio: 'ignore' });
  const settings = `-k ${folder} -c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off`;
  execFileSync(path.join(bin, 'pg_ctl'), ['-D', data, '-w', '-l', path.join(folder, 'log'), '-o', settings, 'start'], {
    stdio: 'ignore',
  });
  process.env.COMPARE_SERVER = folder;
  const db = new Client({ host: folder, user: 'postgres', database: 'postgres' });
  await db.connect();
  await db.query('CREATE DATABASE shop');
  await db.end();
  const shop = new Client({ host: folder, user: 'postgres', database: 'shop' });
  await shop.connect();
  for (const file of readdirSync(MIGRATIONS).sort()) await shop.query(readFileSync(path.join(MIGRATIONS, file), 'utf8'));
  await shop.end();
};
