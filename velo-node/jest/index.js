'use strict';
// For suites without the preset: the same in plain hooks.

const { hold } = require('../lib/handles.js');
const { Suite, printed } = require('../lib/suite.js');

const suite = () => Suite.of(process.cwd());

/** A branch of the suite's seed, called after the test that runs. Whoever asks closes it. */
async function branch(options) {
  if (globalThis.velo) return globalThis.velo.branch(options);
  try {
    return hold(await suite().acquire(options?.label ?? globalThis.expect?.getState?.().currentTestName));
  } catch (error) {
    throw printed(error);
  }
}

const project = () => suite().project();
const seed = () => suite().seed();

module.exports = { branch, project, seed };
