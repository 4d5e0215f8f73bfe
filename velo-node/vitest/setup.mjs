// `globalSetup: ['velo-node/vitest/setup']`: before the first test the seed is built, and what keeps all tests from running
// is said once.

import suites from '../lib/suite.js';

const { Suite, obstacle } = suites;

export default async function setup(project) {
  const { root } = project.config;
  const suite = Suite.of(root);
  try {
    await suite.begin();
  } catch (error) {
    throw obstacle(error);
  }
  project.provide('velo', { root });
  // What goes wrong then is said by the tests, which ask for the same.
  project.onTestsRerun(() => suite.begin({ isWatched: true }).catch(() => {}));
  return () => suite.end();
}
