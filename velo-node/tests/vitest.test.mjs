// Vitest's hooks, in runs of their own: with threads and with forks.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { LONG, end, gone, left, query, require, run, start } from './support.mjs';
import { BODY, SEED, projectOf, suite } from './suites.mjs';

after(end);

const TESTS = LONG ? 200 : 40;
const VITEST = path.join(path.dirname(require.resolve('vitest/package.json')), 'vitest.mjs');
// A test that a busy machine holds up is none that fails, whose branch would stay.
const CONFIG = "export default { test: { globalSetup: ['velo-node/vitest/setup'], testTimeout: 60000 } };";
const POOLS = [['--pool=threads'], ['--pool=forks', '--maxWorkers=3'], ['--no-file-parallelism']];
const vitest = (of, args = [], options = {}) =>
  run(process.execPath, [VITEST, 'run', '--no-color', ...args], { cwd: of.folder, ...options });

const FAILS = "module.exports = () => { throw new RangeError('not this way'); };";

function tests(number, files = 4) {
  const text = `
import pg from 'pg';
import { test } from 'velo-node/vitest';
for (let n = 0; n < ${number / files}; n++) {
  test('order ' + n, async ({ branch }) => {${BODY}  });
}
`;
  return Object.fromEntries(Array.from({ length: files }, (_, n) => [`orders-${n}.test.mjs`, text]));
}

function passed({ code, out, err }, number) {
  assert.match(out, new RegExp(`Tests +${number} passed \\(${number}\\)`), out + err);
  assert.equal(code, 0, out + err);
  for (const sign of ['close timed out', 'hanging', 'Unhandled']) assert.ok(!(out + err).includes(sign), out + err);
}

test('each test has its own, in threads and in forks', async () => {
  const orders = suite({ 'vitest.config.mjs': CONFIG, ...tests(TESTS) });
  for (const args of POOLS) {
    passed(await vitest(orders, args), TESTS);
    await gone();
  }
  const project = await projectOf(orders);
  assert.equal((await project.seeds()).length, 1);
  await left(project, 'main');
});

test("a failed test's branch stays, and the report says where", async () => {
  const orders = suite({
    'vitest.config.mjs': CONFIG,
    'wrong.test.mjs': `
import pg from 'pg';
import { describe, expect } from 'vitest';
import { test } from 'velo-node/vitest';
describe('orders', () => {
  test('are wrong', async ({ branch }) => {
    const db = new pg.Client(branch.url);
    await db.connect();
    await db.query('INSERT INTO orders VALUES (42, false)');
    await db.end();
    expect(1).toBe(2);
  });
});
test('many', async ({ velo, branch }) => {
  const urls = new Set([branch.url, (await velo.branch()).url, (await velo.branch()).url]);
  expect(urls.size).toBe(3);
});
`,
  });
  const { code, out, err } = await vitest(orders);
  assert.equal(code, 1);
  assert.match(out, /Tests +1 failed \| 1 passed/);
  const [, url] = /psql '(.+)'/.exec(out + err);
  assert.deepEqual(await query(url, 'SELECT id FROM orders'), [{ id: 42 }]);
  const [, name] = /velo branch delete (.+)/.exec(out + err);
  assert.match(name, /orders-are-wrong/);
  const project = await projectOf(orders);
  await (await project.branch(name.slice(name.indexOf('/') + 1))).delete({ force: true });
  await gone();
});

test('a killed run leaves nothing', async () => {
  const orders = suite({ 'vitest.config.mjs': CONFIG, ...tests(200, 40) });
  for (const args of POOLS) {
    const running = start(process.execPath, [VITEST, 'run', '--no-color', '--reporter=verbose', ...args], {
      cwd: orders.folder,
    });
    await running.until(/✓[^✓]*✓/u);
    running.child.kill('SIGKILL');
    await gone();
    await running.ended;
    // Threads are one process, and what that had goes when a home is opened next; forks have a keeper, which undoes it.
    if (args.includes('--pool=forks')) await left(await projectOf(orders), 'main');
  }
});

test('what keeps all from running is said once', async () => {
  const orders = suite({ 'vitest.config.mjs': CONFIG, ...tests(8) });
  const plain = suite({
    'vitest.config.mjs': CONFIG,
    'a.test.mjs': `
import { test } from 'velo-node/vitest';
for (const n of [1, 2, 3]) test('order ' + n, async ({ branch }) => void branch.url);
`,
  });
  plain.remove('velo.seed.js');
  const saidOnce = async (of) => {
    const { code, out, err } = await vitest(of, [], { env: { ...process.env, VELO_PG_BIN: '/nowhere' } });
    assert.equal(code, 1, out + err);
    assert.equal((out + err).split('/nowhere holds no PostgreSQL').length, 2, out + err);
    assert.match(out + err, /hint: name the folder/);
    assert.doesNotMatch(out, /^ *Tests /m);
  };
  for (const [of, number] of [[orders, 8], [plain, 3]]) {
    await saidOnce(of);
    // Nor is it another thing where the project is there, and what its tests begin with.
    passed(await vitest(of), number);
    await saidOnce(of);
  }
  await gone();
});

test('a seed is built before the first test, and fails once for all', async () => {
  const orders = suite({
    'vitest.config.mjs': CONFIG.replace('60000', '5000'),
    ...tests(8),
    'velo.seed.js': `${SEED}
const fill = module.exports;
module.exports = async (branch) => {
  await new Promise((resolve) => setTimeout(resolve, 6000));
  await fill(branch);
};
`,
  });
  passed(await vitest(orders), 8);
  orders.put('velo.seed.js', FAILS);
  const { code, out, err } = await vitest(orders);
  assert.equal(code, 1);
  assert.match(out + err, /velo: the seed cannot be built: not this way/);
  assert.equal((out + err).split('the seed cannot be built').length, 2, out + err);
});

test('of a test that is tried again only the last try stays, and none of one that is to fail', async () => {
  const orders = suite({
    'vitest.config.mjs': CONFIG,
    'a.test.mjs': `
import { expect } from 'vitest';
import { test } from 'velo-node/vitest';
let tries = 0;
test.fails('is meant to', async ({ branch }) => { expect(branch.url).toBe('x'); });
test('passes at last', { retry: 3 }, async ({ branch }) => { tries += 1; expect(tries).toBe(4); });
test('never passes', { retry: 2 }, async ({ branch }) => { expect(1).toBe(2); });
let repeated = 0;
test('is wrong once', { repeats: 2 }, async ({ branch }) => { repeated += 1; expect(repeated).not.toBe(2); });
`,
  });
  const { out, err } = await vitest(orders);
  assert.match(out, /Tests +2 failed \| \d passed/);
  assert.equal(new Set((out + err).match(/velo branch delete .+/g)).size, 2, out + err);
  const project = await projectOf(orders);
  const kept = (await project.branches()).filter(({ name }) => name?.startsWith('kept/'));
  const names = kept.map(({ name }) => name.replace(/-\w+$/, '')).sort();
  assert.deepEqual(names, ['kept/is-wrong-once', 'kept/never-passes']);
  for (const { name } of kept) await (await project.branch(name)).delete({ force: true });
  await gone();
});

/** It notes who builds it: a worker, or none. */
const NOTED = `${SEED}
const fill = module.exports;
module.exports = async (branch) => {
  require('node:fs').appendFileSync(__dirname + '/built', process.env.VITEST_POOL_ID + ' ');
  await fill(branch);
};
`;
const PACKAGE = 'export default { test: { testTimeout: 60000 } };';

for (const [what, projects] of [
  ['in folders of their own', "['packages/*']"],
  ['that extend the config', "['api', 'web', 'docs'].map((name) => ({ extends: true, root: 'packages/' + name, test: { name } }))"],
]) {
  test(`of projects ${what} each has its seed, which is built before the first test`, async () => {
    const { 'orders-0.test.mjs': text } = tests(2, 1);
    const all = suite({
      'vitest.config.mjs': CONFIG.replace('60000', `60000, projects: ${projects}`),
      'packages/api/package.json': '{"name": "api"}',
      'packages/api/vitest.config.mjs': PACKAGE,
      'packages/api/velo.seed.js': NOTED,
      'packages/api/orders.test.mjs': text,
      'packages/web/package.json': '{"name": "web"}',
      'packages/web/vitest.config.mjs': PACKAGE,
      'packages/web/velo.seed.js': NOTED,
      'packages/web/orders.test.mjs': text,
      'packages/docs/package.json': '{"name": "docs"}',
      'packages/docs/none.test.mjs': "import { test } from 'vitest'; test('asks for none', () => {});",
    });
    passed(await vitest(all), 5);
    for (const name of ['api', 'web']) {
      assert.equal(readFileSync(path.join(all.folder, 'packages', name, 'built'), 'utf8'), 'undefined ');
    }
    all.put('packages/web/velo.seed.js', FAILS);
    const { code, out, err } = await vitest(all);
    assert.equal(code, 1);
    assert.equal((out + err).split('velo: the seed cannot be built: not this way').length, 2, out + err);
    // Who runs nothing of a project needs no seed of it.
    for (const args of [['packages/api'], ['--project=api']]) passed(await vitest(all, args), 2);
    await gone();
  });
}

test('projects without a seed have that of the root, which is built before the first test', async () => {
  const { 'orders-0.test.mjs': text } = tests(2, 1);
  const all = suite({
    'vitest.config.mjs': CONFIG.replace('60000', "60000, projects: ['packages/*']"),
    'velo.seed.js': NOTED,
    'packages/api/package.json': '{"name": "api"}',
    'packages/api/vitest.config.mjs': PACKAGE,
    'packages/api/orders.test.mjs': text,
    // It has this globalSetup of its own.
    'packages/web/package.json': '{"name": "web"}',
    'packages/web/vitest.config.mjs': CONFIG,
    'packages/web/orders.test.mjs': text,
    'packages/goods/package.json': '{"name": "goods"}',
    'packages/goods/vitest.config.mjs': PACKAGE,
    'packages/goods/velo.seed.js': SEED.replaceAll('orders', 'goods'),
    'packages/goods/goods.test.mjs': text.replaceAll('orders', 'goods'),
  });
  passed(await vitest(all), 6);
  assert.equal(readFileSync(path.join(all.folder, 'built'), 'utf8'), 'undefined ');
  all.put('velo.seed.js', FAILS);
  for (const args of [[], ['packages/api'], ['packages/web']]) {
    const { code, out, err } = await vitest(all, args);
    assert.equal(code, 1);
    assert.equal((out + err).split('velo: the seed cannot be built: not this way').length, 2, out + err);
    assert.doesNotMatch(out, /^ *Tests /m);
  }
  // Who runs nothing of a project that has it needs it not.
  for (const args of [['packages/goods'], ['--project=goods']]) passed(await vitest(all, args), 2);
  await gone();
});

test("a test's own cleanup still has the server", async () => {
  const orders = suite({
    'vitest.config.mjs': CONFIG,
    'finished.test.mjs': `
import pg from 'pg';
import { onTestFinished } from 'vitest';
import { test } from 'velo-node/vitest';
for (const Client of [pg.Client, pg.Pool]) {
  test(Client.name, async ({ branch }) => {
    const db = new Client({ connectionString: branch.url });
    if (Client === pg.Client) await db.connect();
    onTestFinished(async () => {
      await db.query('SELECT 1');
      await db.end();
    });
    await db.query('INSERT INTO orders VALUES (42, false)');
  });
}
test.aroundEach(async (runTest, { branch }) => {
  await runTest();
  const db = new pg.Client(branch.url);
  await db.connect();
  await db.end();
});
test('is within', () => {});
`,
    'fails.test.mjs': `
import { expect, onTestFinished } from 'vitest';
import { test } from 'velo-node/vitest';
test('has a cleanup that fails', async ({ branch }) => {
  onTestFinished(() => { throw new Error('no cleanup'); });
});
test('has ended', async ({ branch }) => {});
test('comes after it', async ({ velo }) => {
  const names = (await (await velo.project()).branches()).map(({ shown }) => shown);
  expect(names.filter((name) => name.startsWith('~has-ended'))).toEqual([]);
});
`,
  });
  passed(await vitest(orders, ['finished']), 3);
  await gone();
  const { out, err } = await vitest(orders, ['fails']);
  assert.match(out, /Tests +1 failed \| 2 passed/, out + err);
  const [, name] = /velo branch delete [^/]+\/(.+)/.exec(out + err);
  assert.match(name, /^kept\/has-a-cleanup-that-fails-/);
  await (await (await projectOf(orders)).branch(name)).delete({ force: true });
  await gone();
});
