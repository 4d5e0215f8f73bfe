// Which suite the tests of a run of Jest's are of, where that is not the folder that it is started in alone.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { Project } from 'velo-node';
import { CONFIG, jest, passed, tests } from './jest.mjs';
import { end, gone } from './support.mjs';
import { BODY, SEED, projectOf, suite } from './suites.mjs';

after(end);

test('velo.seed.js beside the package.json is found from a rootDir below it', async () => {
  const { 'orders-0.test.js': text } = tests(2, 1);
  const orders = suite({
    'jest.config.js': CONFIG.replace('{', "{ rootDir: 'src/deep',"),
    'src/deep/orders.test.js': text,
  });
  for (const args of [['--runInBand'], ['--maxWorkers=2']]) passed(await jest(orders, args), 2);
  // It is the package's suite, as it is for whoever starts in there.
  assert.equal((await (await projectOf(orders)).seeds()).length, 1);
  // One that is nearer counts.
  orders.put('src/deep/velo.seed.js', "module.exports = () => { throw new RangeError('mine'); };");
  assert.match((await jest(orders)).err, /the seed cannot be built: RangeError: mine/);
  orders.remove('src/deep/velo.seed.js');
  // Another package's is none of this one's.
  orders.put('src/package.json', '{"private": true}');
  const { code, err } = await jest(orders, [], { env: { ...process.env, VELO_KEEP_FAILED: 'none' } });
  assert.equal(code, 1);
  assert.match(err, /relation "orders" does not exist/);
  await gone();
});

test('the config of velo.seed.js is what the project has, or is refused', async () => {
  const seed = (told) => `${SEED}\nmodule.exports = { build: module.exports, ...${JSON.stringify(told)} };\n`;
  const orders = suite({ 'jest.config.js': CONFIG, ...tests(2, 1), 'velo.seed.js': seed({ config: { storage: 'copy' } }) });
  const projects = async () => {
    const word = path.basename(orders.folder).toLowerCase();
    return (await Project.list()).filter(({ name }) => name.startsWith(word));
  };
  passed(await jest(orders), 2);
  assert.deepEqual((await projects()).map(({ storage }) => storage), ['copy']);
  const refused = async (told, why) => {
    orders.put('velo.seed.js', seed(told));
    for (const args of [['--runInBand'], ['--maxWorkers=2']]) {
      const { code, err } = await jest(orders, args);
      assert.equal(code, 1, err);
      assert.equal(err.split(why).length, 2, err);
      assert.match(err, /hint: velo project delete \S+ has it made anew/);
      assert.doesNotMatch(err, /^(PASS|FAIL)/m);
    }
  };
  await refused({ config: { storage: 'reflink' } }, 'storage is reflink, and the project ');
  for (const storage of ['auto', null]) {
    orders.put('velo.seed.js', seed({ config: { storage } }));
    passed(await jest(orders), 2);
  }
  assert.equal((await projects()).length, 1);
  // Another PostgreSQL is another project's.
  const [[major, pgBin]] = (process.env.VELO_TEST_PG ?? '')
    .split(' ')
    .map((pair) => pair.split('='))
    .sort(([one], [other]) => Number(one) - Number(other));
  const told = { config: { pgVersion: Number(major), pgBin } };
  orders.put('velo.seed.js', seed(told));
  passed(await jest(orders), 2);
  const [, other, ...more] = await projects();
  assert.deepEqual([Number.parseInt(other.postgres, 10), more], [Number(major), []]);
  // One that has a name is there for all.
  orders.put('velo.seed.js', seed({ project: 'named', ...told }));
  passed(await jest(orders), 2);
  const wrong = { project: 'named', config: { pgVersion: Number(major) + 1 } };
  await refused(wrong, `pg_version is ${Number(major) + 1}, and the project named was made with ${major}`);
  // Nor are Velo's variables passed over.
  orders.put('velo.seed.js', seed({}));
  for (const [variable, value] of [['VELO_STORAGE', 'zfs'], ['VELO_RUNTIME', 'docker'], ['VELO_IMAGE', 'postgres:15']]) {
    const { code, err } = await jest(orders, [], { env: { ...process.env, [variable]: value } });
    assert.equal(code, 1, err);
    assert.match(err, / is \S+, and the project \S+ was made with /);
  }
  await refused({ config: { image: 'postgres:15' } }, 'image is postgres:15, and the project ');
  orders.put('velo.seed.js', seed({}));
  const env = { ...process.env, VELO_PG_VERSION: major, VELO_PG_BIN: pgBin };
  passed(await jest(orders, [], { env }), 2);
  const versions = (await projects()).map(({ postgres }) => Number.parseInt(postgres, 10));
  assert.ok(versions.filter((one) => one === Number(major)).length >= 2, `${versions}`);
  await gone();
});

/** A seed that takes longer than a test may, and notes who builds it: a globalSetup, or who runs tests. */
const SLOW = `${SEED}
const fill = module.exports;
module.exports = async (branch) => {
  const who = process.env.JEST_WORKER_ID === undefined ? 'setup' : 'worker';
  require('node:fs').appendFileSync(__dirname + '/built', who + process.env.PREPARED + ' ');
  await new Promise((resolve) => setTimeout(resolve, 6000));
  await fill(branch);
};
`;
const FAILS = "module.exports = () => { throw new RangeError('not this way'); };";
const SHORT = CONFIG.replace('60000', '5000');
/** A globalSetup of one's own, which calls Velo's. */
const OWN = `
const setup = require('velo-node/jest/setup');
module.exports = async (...given) => {
  process.env.PREPARED = '-prepared';
  await setup(...given);
};
`;
const builders = ({ folder }, name = '') => readFileSync(path.join(folder, name, 'built'), 'utf8').trim();

async function failsOnce(of, ...args) {
  const { code, err } = await jest(of, args);
  assert.equal(code, 1, err);
  assert.match(err, /velo: the seed cannot be built: RangeError: not this way/);
  assert.equal(err.split('RangeError').length, 2, err);
  assert.doesNotMatch(err, /^(PASS|FAIL)/m);
}

for (const [what, config, setup] of [
  ['the preset', SHORT, 'undefined'],
  ['a globalSetup of their own', SHORT.replace('{', "{ globalSetup: '<rootDir>/../setup.js',"), '-prepared'],
]) {
  test(`of projects that share ${what} the seed of each is built before the first test`, async () => {
    const named = (name) => config.replace('{', `{ displayName: '${name}',`);
    const { 'orders-0.test.js': text } = tests(2, 1);
    // One is a folder, the other is written in place.
    const inPlace = named('two').replace('{', "{ rootDir: '<rootDir>/two',").replace(/^module.exports = |;$/g, '');
    const both = suite({
      'jest.config.js': `module.exports = { projects: ['<rootDir>/one', ${inPlace}] };`,
      'setup.js': OWN,
      'one/jest.config.js': named('one'),
      'one/velo.seed.js': SLOW,
      'one/orders.test.js': text,
      'two/velo.seed.js': SLOW,
      'two/orders.test.js': text,
    });
    passed(await jest(both, ['--maxWorkers=2']), 4);
    for (const name of ['one', 'two']) assert.equal(builders(both, name), `setup${setup}`);
    passed(await jest(both, ['--runInBand']), 4);
    for (const name of ['one', 'two']) assert.equal(builders(both, name), `setup${setup}`);
    both.put('two/velo.seed.js', FAILS);
    for (const args of [['--runInBand'], ['--maxWorkers=2'], ['two/']]) await failsOnce(both, ...args);
    // Who runs nothing of a project needs no seed of it.
    for (const args of [['one/'], ['--selectProjects', 'one']]) passed(await jest(both, args), 2);
    await gone();
  });
}

test('a globalSetup of its own calls that of Velo, or the seed is built before the first test of a file', async () => {
  const orders = suite({
    'jest.config.js': SHORT.replace('{', "{ globalSetup: './setup.js', globalTeardown: './teardown.js',"),
    'setup.js': OWN,
    'teardown.js': "module.exports = require('velo-node/jest/teardown');",
    ...tests(4, 2),
    'velo.seed.js': SLOW,
  });
  passed(await jest(orders, ['--maxWorkers=2']), 4);
  assert.equal(builders(orders), 'setup-prepared');
  orders.put('velo.seed.js', FAILS);
  await failsOnce(orders);
  orders.put('setup.js', 'module.exports = () => {};');
  for (const args of [['--maxWorkers=2'], ['--runInBand']]) {
    orders.put('velo.seed.js', `${SLOW}// ${args}`);
    orders.put('built', '');
    passed(await jest(orders, args), 4);
    assert.equal(builders(orders), 'workerundefined');
  }
  // Then each test that asks is told.
  orders.put('velo.seed.js', FAILS);
  orders.put('none.test.js', "test('asks for none', () => {});");
  const { code, err } = await jest(orders);
  assert.equal(code, 1);
  assert.match(err, /Tests: +4 failed, 1 passed, 5 total/);
  assert.match(err, /not this way/);
  await gone();
});

/** Tests without the preset. */
const PLAIN = `
const pg = require('pg');
const velo = require('velo-node/jest');
let branch;
beforeEach(async () => { branch = await velo.branch(); }, 60000);
afterEach(() => branch.close());
for (let n = 0; n < 2; n++) test('order ' + n, async () => {${BODY}}, 60000);
`;

test('plain hooks take the suite of the file that runs, else that of the working directory', async () => {
  const goods = (text) => text.replaceAll('orders', 'goods');
  const all = suite({
    'jest.config.js': "module.exports = { projects: ['<rootDir>/packages/*'] };",
    'packages/api/package.json': '{"name": "api"}',
    'packages/api/jest.config.js': "module.exports = { displayName: 'api' };",
    'packages/api/velo.seed.js': goods(SEED),
    'packages/api/src/goods.test.js': goods(PLAIN),
    'packages/web/package.json': '{"name": "web"}',
    'packages/web/jest.config.js': "module.exports = { displayName: 'web' };",
    'packages/web/orders.test.js': PLAIN,
    'packages/bare/package.json': '{"name": "bare"}',
    'packages/bare/jest.config.js': "module.exports = { displayName: 'bare', injectGlobals: false };",
    'packages/bare/velo.seed.js': SEED.replaceAll('orders', 'parts'),
    'packages/bare/parts.test.js': `
const { afterEach, beforeEach, expect, test } = require('@jest/globals');
${PLAIN.replaceAll('orders', 'parts')}
test('is told', () => expect(branch.fullName).toMatch(/~is-told/), 60000);
`,
  });
  for (const args of [['--runInBand'], ['--maxWorkers=2']]) passed(await jest(all, args), 7);
  await gone();
});

test('plain hooks say that they take no velo.seed of ES modules', async () => {
  const orders = suite({ 'jest.config.js': 'module.exports = {};', 'orders.test.js': PLAIN });
  orders.remove('velo.seed.js');
  orders.put('velo.seed.mjs', "export { default } from './seed.cjs';");
  orders.put('seed.cjs', SEED);
  const { code, err } = await jest(orders);
  assert.equal(code, 1);
  assert.match(err, /velo\.seed\.mjs is an ES module, which Jest cannot load without the preset/);
  assert.match(err, /hint: use the preset, or write it as CommonJS \(velo\.seed\.cjs\)/);
  // With the preset it is none of the sandbox's.
  orders.put('jest.config.js', CONFIG);
  passed(await jest(orders), 2);
  await gone();
});
