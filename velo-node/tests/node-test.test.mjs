// The hooks for Node's own test runner.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { end, gone, left, query, run } from './support.mjs';
import { BODY, projectOf, suite } from './suites.mjs';

after(end);

const node = (of, args, options = {}) =>
  run(process.execPath, ['--test', '--test-reporter=tap', ...args], { cwd: of.folder, ...options });

test('each test has its own, and files share one pool', async () => {
  const text = `
const { test, before, after } = require('node:test');
const pg = require('pg');
const velo = require('velo-node/node-test');
let shared;
before(async () => { shared = await velo.branch(); });
after(() => shared.close());
for (let n = 0; n < 10; n++) test('order ' + n, async (t) => {
    const branch = await velo.branch(t);${BODY}});
`;
  const orders = suite({ 'a.test.js': text, 'b.test.js': text, 'c.test.js': text });
  const said = await node(orders, ['--test-concurrency=3', 'a.test.js', 'b.test.js', 'c.test.js']);
  assert.match(said.out, /# pass 30\n# fail 0/, said.out + said.err);
  await gone();
  const project = await projectOf(orders);
  assert.equal((await project.seeds()).length, 1);
  await left(project, 'main');
});

test("a failed test's branch stays, and the report says where", async () => {
  const orders = suite({
    'wrong.test.mjs': `
import assert from 'node:assert';
import { test } from 'node:test';
import pg from 'pg';
import { branch } from 'velo-node/node-test';
test('orders are wrong', async (t) => {
  const db = new pg.Client((await branch(t)).url);
  await db.connect();
  await db.query('INSERT INTO orders VALUES (42, false)');
  await db.end();
  assert.equal(1, 2);
});
`,
  });
  const { code, out } = await node(orders, ['wrong.test.mjs']);
  assert.equal(code, 1);
  const [, url] = /psql '(.+)'/.exec(out);
  assert.deepEqual(await query(url, 'SELECT id FROM orders'), [{ id: 42 }]);
  const [, name] = /velo branch delete (.+)/.exec(out);
  const project = await projectOf(orders);
  await (await project.branch(name.slice(name.indexOf('/') + 1))).delete({ force: true });
  await gone();
});

test('what is to do does not stay', async () => {
  const orders = suite({
    'todo.test.mjs': `
import { test } from 'node:test';
import { branch } from 'velo-node/node-test';
test('is told', { todo: true }, async (t) => { await branch(t); throw new Error('not yet'); });
test('tells', async (t) => { await branch(t); t.todo('later'); throw new Error('not yet'); });
`,
  });
  const { out, code } = await node(orders, ['todo.test.mjs']);
  assert.deepEqual([code, out.includes('psql')], [0, false], out);
  await gone();
});

test("a failed subtest's test has its branch stay", async () => {
  const orders = suite({
    'parent.test.mjs': `
import { test } from 'node:test';
import { branch } from 'velo-node/node-test';
test('parent', async (t) => {
  await branch(t);
  await t.test('inner', async (inner) => inner.test('innermost', () => { throw new Error('no'); }));
});
test('good', async (t) => { await branch(t); await t.test('inner', () => {}); });
`,
  });
  const { out, code } = await node(orders, ['parent.test.mjs']);
  assert.equal(code, 1);
  const told = [...out.matchAll(/velo branch delete [^/]+\/(.+)/g)].map(([, name]) => name);
  assert.deepEqual(told.map((name) => name.replace(/-\w+$/, '')), ['kept/parent'], out);
  await (await (await projectOf(orders)).branch(told[0])).delete({ force: true });
  await gone();
});

test('what a plain hook made lives until it is closed', async () => {
  const orders = suite({
    'held.test.mjs': `
import { before, after, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { branch, project } from 'velo-node/node-test';
let url;
before(async () => { ({ url } = await branch()); });
test('has it', async () => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc');
  for (let time = 0; time < 20; time++) { gc(); await sleep(50); }
  const db = new pg.Client(url);
  await db.connect();
  await db.end();
});
`,
  });
  const { out, code } = await node(orders, ['held.test.mjs']);
  assert.equal(code, 0, out);
  await gone();
});

test('a context that is none of a test is told at once', async () => {
  const orders = suite({
    'suite.test.mjs': `
import assert from 'node:assert';
import { before, beforeEach, describe, it } from 'node:test';
import { branch, project } from 'velo-node/node-test';
describe('orders', () => {
  let error;
  before(async (context) => { error = await branch(context).catch((thrown) => thrown); });
  beforeEach(async (t) => { await branch(t); });
  it('are not asked for', async () => {
    assert.match(error?.message, /this is no context of a test/);
    assert.match(error?.message, /hint: in .before. of a suite/);
    assert.equal((await (await project()).branches()).filter(({ shown }) => shown.startsWith('~orders.')).length, 0);
  });
});
`,
  });
  const { out, code } = await node(orders, ['suite.test.mjs']);
  assert.equal(code, 0, out);
  await gone();
});

test("a test's own cleanup still has the server", async () => {
  const orders = suite({
    'after.test.mjs': `
import { test } from 'node:test';
import pg from 'pg';
import { branch } from 'velo-node/node-test';
for (const Client of [pg.Client, pg.Pool]) {
  test(Client.name, async (t) => {
    const db = new Client({ connectionString: (await branch(t)).url });
    if (Client === pg.Client) await db.connect();
    t.after(async () => {
      await db.query('SELECT 1');
      await db.end();
    });
    await db.query('INSERT INTO orders VALUES (42, false)');
  });
}
`,
    'fails.test.mjs': `
import assert from 'node:assert';
import { test } from 'node:test';
import pg from 'pg';
import { branch, project } from 'velo-node/node-test';
test('has a cleanup that fails', async (t) => {
  await branch(t);
  t.after(() => { throw new Error('no cleanup'); });
});
test('comes after it', async () => {
  const names = async () => (await (await project()).branches()).map(({ shown }) => shown);
  const end = performance.now() + 30000;
  while ((await names()).some((name) => name.startsWith('~has-a-cleanup'))) {
    assert.ok(performance.now() < end, String(await names()));
  }
});
`,
  });
  const good = await node(orders, ['after.test.mjs']);
  assert.match(good.out, /# pass 2\n# fail 0/, good.out + good.err);
  const failed = await node(orders, ['fails.test.mjs']);
  assert.match(failed.out, /# pass 1\n# fail 1/, failed.out + failed.err);
  assert.match(failed.out, /no cleanup/);
  await gone();
});
