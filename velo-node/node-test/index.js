'use strict';
// For Node's own test runner.

const { Branches, Suite } = require('../lib/suite.js');

const suite = () => Suite.of(process.cwd());

/**
 * A branch of the suite's seed. Given the context of a test it ends with that, and of one that fails it stays for an
 * hour; else whoever asks closes it.
 */
async function branch(test, options) {
  const branches = new Branches(suite());
  const made = await branches.acquire(options?.label ?? test?.fullName ?? test?.name);
  test?.after(async () => {
    if (test.passed === false) for (const line of (await branches.keep()).split('\n')) test.diagnostic(line);
    await branches.close();
  });
  return made;
}

const project = () => suite().project();
const seed = () => suite().seed();

module.exports = { branch, project, seed };
