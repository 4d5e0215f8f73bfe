// Jest's hooks, in runs of their own: in band and with workers, failing, broken off and killed.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { CONFIG, FILES, JEST, endsByItself, jest, passed, tests } from './jest.mjs';
import { LONG, SOON, end, gone, left, living, query, run, script, start, within } from './support.mjs';
import { BODY, SEED, projectOf, suite } from './suites.mjs';

after(end);

const TESTS = LONG ? 500 : 100;

test('each test has its own, with one worker and with four', async () => {
  const orders = suite({ 'jest.config.js': CONFIG, ...tests(TESTS) });
  passed(await jest(orders, ['--runInBand', '--detectOpenHandles']), TESTS);
  await gone();
  const project = await projectOf(orders);
  const [seed, ...others] = await project.seeds();
  assert.deepEqual(others, []);
  const running = start(process.execPath, [JEST, '--ci', '--maxWorkers=4'], { cwd: orders.folder });
  const keepers = new Set();
  const looking = setInterval(() => living().forEach((one) => one.startsWith('keeper') && keepers.add(one)), 100);
  passed(await running.ended, TESTS);
  clearInterval(looking);
  assert.equal(keepers.size, 1, 'all workers draw on one pool');
  await gone();
  passed(await jest(orders, ['--maxWorkers=2', '--workerThreads', 'orders-0']), TESTS / FILES);
  await gone();
  // It stays between runs, and was built once.
  assert.deepEqual((await project.seeds()).map(({ id }) => id), [seed.id]);
  // What ended with its process is undone when a home is opened next.
  const alive = (await project.branches()).filter(({ state }) => state === 'running');
  assert.deepEqual(alive, []);
});

test('who waits for the seed of another process is told', async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    'one.test.js': `test('one', async () => void (await velo.branch()));`,
  });
  const go = path.join(orders.folder, 'go');
  orders.put('velo.seed.js', `
const { existsSync } = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
module.exports = async () => {
  while (!existsSync(${JSON.stringify(go)})) await sleep(10);
};
`);
  const runs = [0, 1].map(() => start(process.execPath, [JEST, '--ci'], { cwd: orders.folder }));
  const told = /velo: waiting for the seed \w+ \(.+\), which another process has been building for \d+ s/g;
  const all = () => runs.map(({ err }) => err).join('');
  // While it waits, and not when all is over.
  const isTold = await within(4 * SOON, () => told.test(all()));
  orders.put('go', '');
  for (const { ended } of runs) assert.equal((await ended).code, 0, all());
  assert.ok(isTold, all());
  assert.equal(all().match(told).length, 1, all());
});

test("a failed test's branch stays, and the report says where", async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    ...tests(4, 2),
    'wrong.test.js': `
const pg = require('pg');
describe('orders', () => {
  test('are wrong', async () => {
    const db = new pg.Client((await velo.branch()).url);
    await db.connect();
    await db.query('INSERT INTO orders VALUES (42, false)');
    await db.end();
    expect(1).toBe(2);
  });
});
`,
  });
  for (const args of [['--runInBand'], ['--maxWorkers=2']]) {
    const { code, err } = await jest(orders, args);
    assert.equal(code, 1, err);
    assert.match(err, /Tests: +1 failed, 4 passed, 5 total/);
    assert.match(err, /its database stays for 60 minutes/);
    const [, url] = /psql '(.+)'/.exec(err);
    assert.deepEqual(await query(url, 'SELECT id FROM orders'), [{ id: 42 }]);
    const [, name] = /velo branch delete (.+)/.exec(err);
    assert.match(name, /orders-are-wrong/);
    const project = await projectOf(orders);
    // The next failure of the same test replaces it.
    // What ended with its process may be there until it is undone.
    const kept = (await project.branches()).filter(({ name }) => name?.startsWith('kept/'));
    assert.equal(kept.length, 1);
    assert.ok(kept[0].expiresAt > new Date());
    assert.equal(name, `${project.name}/${kept[0].name}`);
  }
  const project = await projectOf(orders);
  for (const { name } of await project.branches()) {
    if (name?.startsWith('kept/')) await (await project.branch(name)).delete({ force: true });
  }
  const { err } = await jest(orders, [], { env: { ...process.env, VELO_KEEP_FAILED: 'none' } });
  assert.ok(!err.includes('psql'), err);
  await gone();
});

test('a file that fails is in the way of no other', { skip: !LONG && 'only in the long form' }, async () => {
  const { 'orders-0.test.js': text } = tests(5, 1);
  const wrong = text.replace(/(?=\n  }\);)/, "\n    expect('mine').toBe('other');");
  assert.notEqual(wrong, text);
  const orders = suite({ 'jest.config.js': CONFIG, ...tests(TESTS), 'wrong.test.js': wrong });
  for (const args of [['--runInBand', '--detectOpenHandles'], ['--maxWorkers=4']]) {
    const { code, err } = await jest(orders, args);
    assert.equal(code, 1, err);
    assert.match(err, new RegExp(`Tests: +5 failed, ${TESTS} passed, ${TESTS + 5} total`), err);
    endsByItself(err);
    // Those failed for nothing else: nobody was in their branches.
    assert.equal(err.split('Expected: "other"').length, 6, err);
    const told = [...err.matchAll(/velo branch delete [^/]+\/(.+)/g)].map(([, name]) => name).sort();
    assert.equal(told.length, 5, err);
    const project = await projectOf(orders);
    let alive;
    const areAll = async () => {
      // Records of what ended with its process may be there until they are undone.
      alive = (await project.branches()).filter(({ state }) => state === 'running').map(({ name }) => name);
      return alive.sort().join() === told.join();
    };
    assert.ok(await within(SOON, areAll), `${alive}\n${err}`);
    for (const name of told) await (await project.branch(name)).delete({ force: true });
    await gone();
  }
});

test('a killed run leaves nothing', async () => {
  const orders = suite({ 'jest.config.js': CONFIG, ...tests(TESTS, TESTS / 5) });
  for (const args of [['--runInBand'], ['--maxWorkers=4']]) {
    const running = start(process.execPath, [JEST, '--ci', ...args], { cwd: orders.folder });
    assert.ok(await within(4 * SOON, () => (running.err.match(/^PASS/gm) ?? []).length >= 2), running.err);
    running.child.kill('SIGKILL');
    // Its workers hold what it says to the end.
    await gone();
    await running.ended;
    // A process alone has no keeper that undoes what it had: who opens the home next does, and here it is open already.
    if (args[0] === '--runInBand') {
      const opened = await script(`await (await import('velo-node')).Project.list();`).ended;
      assert.equal(opened.code, 0, opened.err);
    }
    // Nor of tests that workers ran to the end of their files.
    await left(await projectOf(orders), 'main');
  }
  passed(await jest(orders, ['--maxWorkers=2', 'orders-[01]\\.']), 10);
});

test('a killed worker takes its tests with it, and nothing stays', async () => {
  const number = LONG ? TESTS : 40;
  const orders = suite({ 'jest.config.js': CONFIG, ...tests(number, number / 5) });
  const running = start(process.execPath, [JEST, '--ci', '--maxWorkers=4'], { cwd: orders.folder });
  assert.ok(await within(4 * SOON, () => (running.err.match(/^PASS/gm) ?? []).length >= 2), running.err);
  const worker = readdirSync('/proc').find((pid) => {
    try {
      return (
        new RegExp(`\\) \\w ${running.child.pid} `).test(readFileSync(`/proc/${pid}/stat`, 'utf8')) &&
        readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('processChild')
      );
    } catch {
      return false;
    }
  });
  process.kill(Number(worker), 'SIGKILL');
  const { code, err } = await running.ended;
  // Its file goes with it; between two files it had none. All others are run, by a worker that comes in its place.
  const isTold = /A jest worker process \(pid=\d+\) was terminated by another process: signal=SIGKILL/.test(err);
  const there = isTold ? number - 5 : number;
  assert.match(err, new RegExp(`Tests: +${there} passed, ${there} total`), err);
  assert.equal(code, isTold ? 1 : 0, err);
  await gone();
});

test('hooks share a branch, and plain ones work without the preset', async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    'shared.test.js': `
const pg = require('pg');
const { VeloError, Branch } = require('velo-node');
let shared;
let own;
const rows = async (branch) => {
  const db = new pg.Client(branch.url);
  await db.connect();
  const { rows } = await db.query('SELECT count(*)::int AS n FROM orders');
  await db.query('INSERT INTO orders SELECT coalesce(max(id), 0) + 1, true FROM orders');
  await db.end();
  return rows[0].n;
};
beforeAll(async () => { shared = await velo.branch(); });
beforeEach(async () => { own = await velo.branch(); });
test('one', async () => { expect([await rows(shared), await rows(own)]).toEqual([0, 0]); });
test('two', async () => {
  expect([await rows(shared), await rows(own)]).toEqual([1, 0]);
  expect(new Set([own.url, shared.url, (await velo.branch()).url]).size).toBe(3);
});
test('errors are known in the sandbox', async () => {
  const project = await velo.project();
  await expect(project.branch('nope')).rejects.toBeInstanceOf(VeloError);
  const branch = await Branch.create(project, { from: await velo.seed() });
  expect(await rows(branch)).toBe(0);
  await branch[Symbol.asyncDispose]();
});
`,
  });
  passed(await jest(orders, ['--detectOpenHandles']), 3);
  orders.remove('shared.test.js');
  orders.put('jest.config.js', 'module.exports = {};');
  const plain = `
const pg = require('pg');
const velo = require('velo-node/jest');
let branch;
beforeEach(async () => { branch = await velo.branch(); });
afterEach(() => branch.close());
for (let n = 0; n < 5; n++) test('order ' + n, async () => {${BODY}});
`;
  for (const name of ['a', 'b']) orders.put(`${name}.test.js`, plain);
  for (const args of [['--runInBand', '--detectOpenHandles'], ['--maxWorkers=2']]) passed(await jest(orders, args), 10);
  await gone();
});

test('of concurrent tests each has its branch to its end', async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    'at-once.test.js': `
const { setTimeout: sleep } = require('node:timers/promises');
const pg = require('pg');
const query = async (branch, text) => {
  const db = new pg.Client(branch.url);
  await db.connect();
  await db.query(text);
  await db.end();
};
test('plain', async () => { await query(await velo.branch(), 'SELECT 1'); });
describe('at once', () => {
  test.concurrent('short', async () => { await velo.branch(); await sleep(600); }, 60_000);
  test.concurrent('long', async () => {
    await sleep(300);
    const branch = await velo.branch();
    await sleep(1500);
    await query(branch, 'SELECT 1');
  }, 60_000);
});
`,
  });
  passed(await jest(orders, ['--detectOpenHandles']), 3);
  await gone();
});

test('in watch mode a seed is made anew when its file changes', async () => {
  const orders = suite({ 'jest.config.js': CONFIG, ...tests(2, 1) });
  const watching = start(process.execPath, [JEST, '--watchAll', '--runInBand', '--colors=false'], { cwd: orders.folder });
  const runs = () => (watching.err.match(/Tests: +2 passed, 2 total/g) ?? []).length;
  assert.ok(await within(4 * SOON, () => runs() === 1), watching.err);
  await changed(watching, () => orders.put('velo.seed.js', `// Changed.\n${SEED}`));
  assert.ok(runs() >= 2, watching.err);
  assert.equal((await (await projectOf(orders)).seeds()).length, 2);
  watching.child.kill('SIGTERM');
  await watching.ended;
  await gone();
});

/** Changes a file until a run is over that comes of it: Jest passes over what changes while one is about to end. */
async function changed(watching, put) {
  const runs = () => watching.err.split(/^Tests: /m).length;
  const before = runs();
  const again = async () => {
    put();
    return within(SOON / 2, () => runs() > before);
  };
  assert.ok((await again()) || (await again()) || (await again()), watching.err);
}

/** A suite that is watched, whose seed has the text of `db/version`, by what velo.seed.* says; and what its test saw. */
function versions(files) {
  const versioned = suite({
    'jest.config.js': CONFIG,
    'db/version': '1',
    'a.test.js': `
const pg = require('pg');
test('version', async () => {
  const db = new pg.Client((await velo.branch()).url);
  await db.connect();
  const { rows } = await db.query('SELECT version FROM versions');
  await db.end();
  process.stderr.write('VERSION ' + rows[0].version + '.\\n');
});
`,
    ...files,
  });
  const watching = start(process.execPath, [JEST, '--watchAll', '--runInBand', '--colors=false'], { cwd: versioned.folder });
  const seen = () => [...watching.err.matchAll(/VERSION (\w+)\./g)].map(([, version]) => version);
  const first = () => within(4 * SOON, () => /^Tests: /m.test(watching.err));
  const over = async () => {
    watching.child.kill('SIGTERM');
    await watching.ended;
    await gone();
  };
  return { ...versioned, watching, seen, first, over };
}

const MIGRATE = (version) => `
const pg = require('pg');
exports.version = '${version}';
exports.migrate = async (branch) => {
  const db = new pg.Client(branch.url);
  await db.connect();
  await db.query("CREATE TABLE versions AS SELECT '${version}' AS version");
  await db.end();
};
`;

test('in watch mode a failed test has one branch that stays', async () => {
  for (const args of [['--runInBand'], ['--maxWorkers=2']]) {
    const text = (time) => `test('fails', async () => { await velo.branch(); await velo.branch(); expect(1).toBe(2); }); // ${time}`;
    const orders = suite({ 'jest.config.js': CONFIG, ...tests(2, 2), 'wrong.test.js': text(0) });
    const watching = start(process.execPath, [JEST, '--watchAll', '--colors=false', ...args], { cwd: orders.folder });
    assert.ok(await within(4 * SOON, () => /^Tests: /m.test(watching.err)), watching.err);
    for (let time = 1; time <= 4; time++) await changed(watching, () => orders.put('wrong.test.js', text(time)));
    watching.child.kill('SIGTERM');
    await watching.ended;
    assert.ok(!watching.err.includes('does not stay'), watching.err);
    const project = await projectOf(orders);
    const kept = (await project.branches()).filter(({ name }) => name?.startsWith('kept/')).map(({ name }) => name);
    const told = [...watching.err.matchAll(/velo branch delete [^/]+\/(.+)/g)].map(([, name]) => name);
    assert.deepEqual(kept.sort(), told.slice(-2).sort(), watching.err);
    for (const name of kept) await (await project.branch(name)).delete({ force: true });
    await gone();
  }
});

test('in watch mode a seed is made by what velo.seed.js requires as it is then', async () => {
  const of = versions({
    'velo.seed.js': `
const inner = require('./db/inner.js');
/** @type {import('./db/inner.js')} */
module.exports = { files: 'db/migrate.js', texts: [inner.text], build: inner.build };
`,
    'db/inner.js': `
exports.build = (branch) => require('./migrate.js').migrate(branch);
exports.text = require('node:fs').readFileSync(__dirname + '/version', 'utf8');
`,
    'db/migrate.js': MIGRATE('a'),
  });
  assert.ok(await of.first(), of.watching.err);
  await changed(of.watching, () => of.put('db/migrate.js', MIGRATE('b')));
  assert.deepEqual(of.seen(), ['a', 'b'], of.watching.err);
  const project = await projectOf(of);
  assert.equal((await project.seeds()).length, 2);
  of.put('db/version', '2');
  const again = `${readFileSync(path.join(of.folder, 'a.test.js'))}// again`;
  await changed(of.watching, () => of.put('a.test.js', again));
  assert.equal((await project.seeds()).length, 3, 'texts are evaluated anew');
  await of.over();
  // A run of its own finds what the watched one made.
  const { err } = await jest(of, ['--runInBand']);
  assert.match(err, /VERSION b\./);
  assert.equal((await project.seeds()).length, 3);
});

test('in watch mode no seed is made by modules of before', async () => {
  for (const [name, text] of [
    ['velo.seed.mjs', "import db from './db/migrate.js';\nexport default { files: 'db/**', build: db.migrate };"],
    ['velo.seed.js', "module.exports = { files: 'db/**', build: async (b) => (await import('./db/migrate.js')).migrate(b) };"],
  ]) {
    const of = versions({ 'velo.seed.js': '', [name]: text, 'db/migrate.js': MIGRATE('a') });
    if (name !== 'velo.seed.js') of.remove('velo.seed.js');
    assert.ok(await of.first(), of.watching.err);
    await changed(of.watching, () => of.put('db/migrate.js', MIGRATE('b')));
    assert.deepEqual(of.seen(), ['a'], of.watching.err);
    assert.match(of.watching.err, /may have old code of it: .*velo\.seed\.m?js imports modules/);
    assert.match(of.watching.err, /start the run again/);
    await of.over();
    assert.match((await jest(of, ['--runInBand'])).err, /VERSION b\./);
  }
});

test('what keeps all from running is said once', async () => {
  const orders = suite({ 'jest.config.js': CONFIG, ...tests(8) });
  const plain = suite({
    'jest.config.js': CONFIG,
    'a.test.js': `for (const n of [1, 2, 3]) test('order ' + n, async () => void (await velo.branch()));`,
  });
  plain.remove('velo.seed.js');
  const saidOnce = async (of) => {
    for (const args of [['--runInBand'], ['--maxWorkers=2']]) {
      const { code, err } = await jest(of, args, { env: { ...process.env, VELO_PG_BIN: '/nowhere' } });
      assert.equal(code, 1, err);
      assert.equal(err.split('/nowhere holds no PostgreSQL').length, 2, err);
      assert.match(err, /hint: name the folder/);
      assert.ok(!err.includes('FAIL'), err);
    }
  };
  for (const [of, number] of [[orders, 8], [plain, 3]]) {
    await saidOnce(of);
    // Nor is it another thing where the project is there, and what its tests begin with.
    passed(await jest(of), number);
    await saidOnce(of);
  }
  await gone();
});

test('a wrong VELO_KEEP_FAILED hides no failure', async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    'a.test.js': `
test('fails', async () => { await velo.branch(); expect('mine').toBe('other'); });
test('runs', async () => { await velo.branch(); });
`,
  });
  const env = { ...process.env, VELO_KEEP_FAILED: '3600' };
  const early = await jest(orders, [], { env });
  assert.equal(early.code, 1);
  assert.equal(early.err.split('VELO_KEEP_FAILED="3600" is no time').length, 2, early.err);
  assert.doesNotMatch(early.err, /^FAIL/m);
  // Where nobody looked before.
  orders.put('jest.config.js', CONFIG.replace('{', "{ globalSetup: './setup.js',"));
  orders.put('setup.js', 'module.exports = () => {};');
  const { code, err } = await jest(orders, [], { env });
  assert.equal(code, 1);
  assert.match(err, /Tests: +1 failed, 1 passed, 2 total/);
  assert.match(err, /Expected: "other"/);
  assert.match(err, /its database does not stay: VELO_KEEP_FAILED="3600" is no time\n +hint: write one like 30m/);
  await gone();
});

test('a branch that does not end costs no results', async () => {
  const orders = suite({
    'jest.config.js': CONFIG.replace('{', "{ testEnvironment: './environment.js',"),
    'environment.js': `
const { Branch } = require('velo-node');
const { close } = Branch.prototype;
Branch.prototype.close = async function () {
  await close.call(this);
  if (/~sticks/.test(this.fullName)) throw new Error('it sticks');
};
module.exports = require('velo-node/jest/environment');
`,
    'a.test.js': `
test('runs', async () => { await velo.branch(); });
test('sticks', async () => { await velo.branch(); });
test('sticks too', async () => { await velo.branch(); expect('mine').toBe('other'); });
`,
    'b.test.js': `
beforeAll(async () => { await velo.branch({ label: 'sticks' }); });
test('runs', () => {});
`,
  });
  const env = { ...process.env, VELO_KEEP_FAILED: 'none' };
  for (const args of [['--runInBand'], ['--maxWorkers=2']]) {
    const { code, err } = await jest(orders, args, { env });
    assert.equal(code, 1);
    assert.match(err, /Tests: +2 failed, 2 passed, 4 total/);
    assert.match(err, /Expected: "other"/);
    for (const where of ['sticks', 'sticks too']) {
      assert.match(err, new RegExp(`● ${where}\n[^●]*it sticks`), err);
    }
    assert.match(err, /b\.test\.js\n[^]*it sticks/);
  }
  await gone();
});

test("a failed file's branches stay", async () => {
  const shared = `
let shared;
beforeAll(async () => { shared = await velo.branch(); });
`;
  const orders = suite({
    'jest.config.js': CONFIG,
    'orders.test.js': `${shared}
test('has its own', async () => { await velo.branch(); });
test('uses the shared one', () => { expect(shared.url).toBe('x'); });
`,
    'before.test.js': "beforeAll(async () => { await velo.branch(); throw new Error('no'); });\ntest('never runs', () => {});",
    'after.test.js': `${shared}\ntest('runs', () => {});\nafterAll(() => { throw new Error('no'); });`,
    'good.test.js': `${shared}\ntest('runs', () => {});`,
  });
  const { code, err } = await jest(orders, ['--maxWorkers=2']);
  assert.equal(code, 1);
  const project = await projectOf(orders);
  for (const [, url] of err.matchAll(/psql '(.+)'/g)) assert.deepEqual(await query(url, 'SELECT 1 AS n'), [{ n: 1 }]);
  const told = new Set([...err.matchAll(/velo branch delete [^/]+\/(.+)/g)].map(([, name]) => name));
  assert.deepEqual([...told].map((name) => name.replace(/-\w+$/, '')).sort(), ['kept/after', 'kept/before', 'kept/orders']);
  for (const name of told) await (await project.branch(name)).delete({ force: true });
  await gone();
});

test('of a test that is tried again only the last try stays', async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    'a.test.js': `
jest.retryTimes(2);
let tries = 0;
test('passes at last', async () => { await velo.branch(); tries += 1; expect(tries).toBe(3); });
test('never passes', async () => { await velo.branch(); expect(1).toBe(2); });
test.failing('is meant to', async () => { await velo.branch(); expect(1).toBe(2); });
`,
  });
  const { err } = await jest(orders);
  assert.match(err, /Tests: +1 failed, 2 passed, 3 total/);
  assert.equal(err.split('its database stays').length, 2, err);
  const project = await projectOf(orders);
  const kept = (await project.branches()).filter(({ name }) => name?.startsWith('kept/'));
  assert.deepEqual(kept.map(({ name }) => name.replace(/-\w+$/, '')), ['kept/never-passes']);
  await (await project.branch(kept[0].name)).delete({ force: true });
  await gone();
});

test('a seed is built before the first test, and fails once for all', async () => {
  const orders = suite({ 'jest.config.js': CONFIG.replace('60000', '5000'), ...tests(8) });
  const seeds = async () => (await (await projectOf(orders)).seeds()).length;
  const slowly = (why) => `${SEED}
const fill = module.exports;
module.exports = async (branch) => {
  await new Promise((resolve) => setTimeout(resolve, 6000, '${why}'));
  await fill(branch);
};
`;
  for (const args of [['--runInBand'], ['--maxWorkers=2']]) {
    orders.put('velo.seed.js', slowly(args));
    passed(await jest(orders, args), 8);
  }
  assert.equal(await seeds(), 2);
  orders.put('velo.seed.js', "module.exports = () => { throw new RangeError('not this way'); };");
  for (const args of [['--runInBand'], ['--maxWorkers=2']]) {
    const { code, err } = await jest(orders, args);
    assert.equal(code, 1);
    assert.match(err, /velo: the seed cannot be built: RangeError: not this way\n +at .*velo\.seed\.js/);
    assert.equal(err.split('RangeError').length, 2, err);
    assert.ok(!err.includes('FAIL'), err);
  }
  // A suite without a seed has none built.
  orders.remove('velo.seed.js');
  orders.put('orders-0.test.js', "test('needs none', () => {});");
  passed(await jest(orders, ['orders-0']), 1);
  assert.equal(await seeds(), 2);
});

test('a branch that comes after its test has ended is closed', async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    'late.test.js': `
let asked;
test('does not wait', () => { asked = velo.branch({ label: 'late' }).then(() => 'came', (error) => error.message); });
test('is told', async () => {
  expect(await asked).toMatch(/the test that asked for this branch has ended/);
  const all = await (await velo.project()).branches();
  expect(all.filter(({ shown, state }) => shown.startsWith('~late') && state === 'running')).toEqual([]);
}, 60_000);
`,
  });
  passed(await jest(orders), 2);
  await gone();
});

test('a seed is of files and code, and a wrong file is named', async () => {
  const orders = suite({
    'jest.config.js': CONFIG,
    ...tests(2, 1),
    'velo.seed.js': "module.exports = { sql: 'migrations' };",
    'migrations/1_orders.sql': 'CREATE TABLE orders (id int PRIMARY KEY, paid bool)',
    'migrations/2_builds.sql': 'CREATE TABLE builds AS SELECT pg_backend_pid()',
  });
  passed(await jest(orders), 2);
  // Wherever it is started.
  passed(await run(process.execPath, [JEST, '--ci'], { cwd: path.join(orders.folder, 'migrations') }), 2);
  const project = await projectOf(orders);
  assert.equal((await project.seeds()).length, 1);
  orders.put('migrations/3_more.sql', 'CREATE TABLE more ()');
  passed(await jest(orders), 2);
  assert.equal((await project.seeds()).length, 2);
  orders.put('velo.seed.js', "module.exports = { sql: 'migrations', label: 'mine', texts: [process.env.TEXT] };");
  for (const TEXT of ['a', 'b']) passed(await jest(orders, [], { env: { ...process.env, TEXT } }), 2);
  const shown = await Promise.all((await project.seeds()).map(async (seed) => (await seed.info()).shown));
  assert.deepEqual(shown.map((name) => name.replace(/-\w+$/, '')), ['migrations', 'migrations', 'mine', 'mine']);
  orders.put('velo.seed.js', "module.exports = { sql: 'migrations', colour: 'red' };");
  assert.match((await jest(orders)).err, /velo\.seed\.js has no option colour/);
  orders.remove('velo.seed.js');
  orders.put('velo.seed.mjs', 'export default (await import("./esm.mjs")).default;');
  orders.put('esm.mjs', "export default { sql: 'migrations/**' };");
  passed(await jest(orders), 2);
});
