// For Vitest: `test` with the fixtures `branch` and `velo`.

import { inject, test as base } from 'vitest';
import suites from '../lib/suite.js';

const { Branches, Suite } = suites;

const suite = () => Suite.of(inject('velo')?.root ?? process.cwd());

export const test = base.extend({
  velo: async ({ task }, use) => {
    const branches = new Branches(suite());
    await use({
      branch: (options) => branches.acquire(options?.label ?? titleOf(task)),
      project: () => suite().project(),
      seed: () => suite().seed(),
    });
    if (task.result?.state === 'fail') tell(task.result.errors, await branches.keep());
    await branches.close();
  },
  branch: async ({ velo }, use) => {
    await use(await velo.branch());
  },
});

export const it = test;

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
