// Which suite the tests of a run of Jest's are of, where that is not the folder that it is started in alone.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, test } from 'node:test';
import { Project } from 'velo-node';
import { CONFIG, jest, passed, tests } from './jest.mjs';
import { end, gone } from './support.mjs';
import { SEED, projectOf, suite } from './suites.mjs';

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
  await refused({ config: { storage: 'reflink' } }, 'has storage reflink, and its project was made with copy already');
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
  await refused(wrong, `has pgVersion ${Number(major) + 1}, and its project was made with ${major} already`);
  await gone();
});
