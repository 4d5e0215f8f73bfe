'use strict';
// Jest's environment for Node, in which tests have `velo`. It lives outside the sandbox of the tests, so that all files
// of a worker share one suite.

const path = require('node:path');
const { TestEnvironment: NodeEnvironment } = require('jest-environment-node');
const { Branches, Suite, printed } = require('../lib/suite.js');

class VeloEnvironment extends NodeEnvironment {
  #suite;
  #file;
  #fileName;
  #test;
  #name;
  /** Nobody can tell which of the tests that run at once asks. */
  #concurrent = false;

  constructor(config, context) {
    super(config, context);
    this.#suite = Suite.of(config.projectConfig.rootDir);
    this.#file = new Branches(this.#suite);
    this.#fileName = path.basename(context.testPath ?? 'file').replace(/\.([^.]*\.)?[^.]*$/, '');
  }

  async setup() {
    await super.setup();
    await this.#suite.prepare();
    this.global.velo = {
      branch: (options) => (this.#test ?? this.#file).acquire(options?.label ?? this.#name ?? this.#fileName),
      project: () => this.#suite.project(),
      seed: () => this.#suite.seed(),
    };
  }

  async teardown() {
    try {
      await this.#file.close();
    } finally {
      await super.teardown();
    }
  }

  async handleTestEvent(event, state) {
    await super.handleTestEvent?.(event, state);
    if (event.name === 'run_start') {
      this.#concurrent = [...testsOf(state.rootDescribeBlock)].some((test) => test.concurrent);
    } else if (event.name === 'test_start' && !this.#concurrent) {
      this.#test = new Branches(this.#suite);
      this.#name = titleOf(event.test);
    } else if (event.name === 'test_done' || event.name === 'test_skip' || event.name === 'test_todo') {
      const branches = this.#test;
      this.#test = undefined;
      this.#name = undefined;
      const failed = event.test.errors.length > 0 && isLastTry(event.test, this.global, state);
      if (failed) tell(event.test.errors, await branches?.keep());
      await close(branches, event.test.errors);
    } else if (event.name === 'run_finish') {
      const failed = [...testsOf(state.rootDescribeBlock)].find((test) => test.errors.length > 0);
      if (failed) tell(failed.errors, await this.#file.keep());
      else if (state.unhandledErrors.length > 0) tell(state.unhandledErrors, await this.#file.keep());
      await close(this.#file, state.unhandledErrors);
    }
  }
}

/** Whether a test that failed is not tried again. */
function isLastTry(test, global, state) {
  const number = (text) => Number.parseInt(text, 10) || 0;
  let retries = number(global[Symbol.for('RETRY_TIMES')]);
  for (let block = test.parent; block; block = block.parent) {
    retries = Math.max(retries, number(state.describeRetryOptions?.get(block)?.numRetries));
  }
  return test.invocations > retries;
}

/** The tests of a block and of those in it. */
function* testsOf(block) {
  for (const child of block.children) {
    if (child.type === 'describeBlock') yield* testsOf(child);
    else yield child;
  }
}

/** The names of a test and of what is around it, but for Jest's own root. */
function titleOf(test) {
  const names = [];
  for (let block = test; block?.parent; block = block.parent) names.unshift(block.name);
  return names.join(' ');
}

/** Ends branches. What goes wrong is told beside the other errors: an error here would cost the file all its results. */
async function close(branches, errors) {
  try {
    await branches?.close();
  } catch (error) {
    errors.push(printed(error));
  }
}

/** Puts a text into the report of what failed: below the message of its first error. */
function tell(errors, text) {
  if (!text) return;
  const [first] = errors;
  const error = Array.isArray(first) ? first[0] : first;
  if (typeof error?.stack === 'string') {
    const at = error.stack.search(/\n\s+at /);
    const [message, stack] = at < 0 ? [error.stack, ''] : [error.stack.slice(0, at), error.stack.slice(at)];
    error.stack = `${message}\n\n${text}\n${stack}`;
  } else {
    const told = new Error(text);
    told.stack = text;
    errors.push(told);
  }
}

module.exports = VeloEnvironment;
module.exports.TestEnvironment = VeloEnvironment;
