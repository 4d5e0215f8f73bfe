'use strict';
// For suites without the preset: the same in plain hooks.

const path = require('node:path');
const { hold } = require('../lib/handles.js');
const { Suite, printed } = require('../lib/suite.js');

/** That of the file that runs, if there is one: a run may be of several projects, and nobody tells their roots. */
function suite() {
  const file = globalThis.expect?.getState?.().testPath;
  const own = file && Suite.of(path.dirname(file));
  return own?.hasSeed ? own : Suite.of(process.cwd());
}

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
