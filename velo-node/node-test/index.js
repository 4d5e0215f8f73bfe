'use strict';
// For Node's own test runner.

const { executionAsyncResource } = require('node:async_hooks');
const { invalid } = require('../lib/error.js');
const { hold } = require('../lib/handles.js');
const { Branches, Suite, printed } = require('../lib/suite.js');

const suite = () => Suite.of(process.cwd());

/**
 * A branch of the suite's seed. Given the context of a test it ends with that, and of one that fails it stays for an
 * hour; else whoever asks closes it.
 */
async function branch(test, options) {
  if (test && typeof test.after !== 'function') {
    const hint = 'in `before` of a suite ask without it, as `branch()`, and close the branch in `after`';
    throw printed(invalid('this is no context of a test, at whose end the branch could end', hint));
  }
  const branches = new Branches(suite());
  const isTodo = todoOf(test);
  let isSubtestFailed = false;
  // That of a subtest counts for the test only after its hooks.
  test?.afterEach((subtest) => {
    if (subtest?.passed === false) isSubtestFailed = true;
  });
  const made = await branches.acquire(options?.label ?? test?.fullName ?? test?.name);
  test?.after(async () => {
    try {
      if ((test.passed === false || isSubtestFailed) && !isTodo()) {
        for (const line of (await branches.keep()).split('\n')) test.diagnostic(line);
      }
    } finally {
      await closeLast(test, branches);
    }
  });
  return test ? made : hold(made);
}

/**
 * Ends branches after the test's own hooks, whose clients are still connected: hooks run in the order in which they are
 * registered, and one that comes while they run is the last.
 */
async function closeLast(test, branches) {
  const close = () => branches.close();
  try {
    test.after(close);
  } catch {
    return close();
  }
  // After a hook that fails no other runs, and older Nodes take none while they run: the signal comes after all.
  test.signal.addEventListener('abort', () => close().catch(() => {}));
}

/** What tells whether a test is to do. Its context does not say; what Node runs it by does, to whoever asks at once. */
function todoOf(test) {
  const running = executionAsyncResource();
  const isIts = test !== undefined && running?.name === test.name;
  let isCalled = false;
  if (typeof test?.todo === 'function') {
    const { todo } = test;
    test.todo = (...args) => {
      isCalled = true;
      return todo.apply(test, args);
    };
  }
  return () => isCalled || (isIts && running.isTodo === true);
}

const project = () => suite().project();
const seed = () => suite().seed();

module.exports = { branch, project, seed };
