'use strict';
// For suites without the preset: the same in plain hooks.

const path = require('node:path');
const { hold } = require('../lib/handles.js');
const { Suite, printed } = require('../lib/suite.js');

/** What Jest tells of the file and the test that run, also where `injectGlobals` is false: the state of each `expect`. */
function running() {
  return globalThis[Symbol.for('$$jest-matchers-object')]?.state ?? globalThis.expect?.getState?.();
}

/** That of the file that runs, if there is one: a run may be of several projects, and nobody tells their roots. */
function suite() {
  const file = running()?.testPath;
  const own = file && Suite.of(path.dirname(file));
  return own?.hasSeed ? own : Suite.of(process.cwd());
}

/** A branch of the suite's seed, called after the test that runs. Whoever asks closes it. */
async function branch(options) {
  if (globalThis.velo) return globalThis.velo.branch(options);
  try {
    return hold(await suite().acquire(options?.label ?? running()?.currentTestName));
  } catch (error) {
    throw printed(error);
  }
}

const project = () => suite().project();
const seed = () => suite().seed();

module.exports = { branch, project, seed };
