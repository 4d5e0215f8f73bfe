// For Vitest: `test` with the fixtures `branch` and `velo`.

import { inject, test as base } from 'vitest';
import suites from '../lib/suite.js';

const { Branches, Suite } = suites;

const suite = () => Suite.of(inject('velo')?.root ?? process.cwd());

export const test = base.extend({
  velo: async ({ task, onTestFinished }, use) => {
    const branches = new Branches(suite());
    // A test with `repeats` has those of all its repetitions.
    const before = task.result?.errors?.length ?? 0;
    // The test's own cleanup comes after that of fixtures, unless they are those of an `aroundEach`.
    let open = 2;
    const end = async () => {
      open -= 1;
      if (open > 0) return;
      try {
        if (hasFailed(task, before)) tell(task.result.errors, await branches.keep());
      } finally {
        await branches.close();
      }
    };
    // What is registered first runs last. The cleanup of fixtures has no time limit either.
    onTestFinished(end, 0);
    await use({
      branch: (options) => branches.acquire(options?.label ?? titleOf(task)),
      project: () => suite().project(),
      seed: () => suite().seed(),
    });
    await end();
  },
  branch: async ({ velo }, use) => {
    await use(await velo.branch());
  },
});

export const it = test;

/** Whether a test has failed since there were so many errors, that was not meant to, and is not tried again. */
function hasFailed({ result, retry, fails }, before) {
  if (result?.state !== 'fail' || fails || (result.errors?.length ?? 0) <= before) return false;
  const { count = 0, condition } = typeof retry === 'number' ? { count: retry } : (retry ?? {});
  if ((result.retryCount ?? 0) >= count) return true;
  if (!condition) return false;
  const error = result.errors?.at(-1);
  return !(typeof condition === 'function' ? condition(error) : new RegExp(condition).test(error?.message ?? ''));
}

/** The names of a test and of what is around it, but for the file. */
function titleOf(task) {
  const names = [];
  for (let at = task; at && at !== task.file; at = at.suite) names.unshift(at.name);
  return names.join(' ');
}

/** Puts a text into the report of a failed test: below the message of its first error. */
function tell(errors, text) {
  const [error] = errors ?? [];
  if (!text || !error) return;
  error.message = `${error.message}\n\n${text}`;
}
