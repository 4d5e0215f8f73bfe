// Which suite the tests of a run of Jest's are of, where that is not the folder that it is started in alone.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { CONFIG, jest, passed, tests } from './jest.mjs';
import { end, gone } from './support.mjs';
import { projectOf, suite } from './suites.mjs';

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
