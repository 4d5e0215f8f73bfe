// `globalSetup: ['velo-node/vitest/setup']`: what keeps all tests from running is said once, before the first of them.

import suites from '../lib/suite.js';

const { Suite, printed } = suites;

export default async function setup(project) {
  const { root } = project.config;
  const suite = Suite.of(root);
  try {
    await suite.project();
  } catch (error) {
    const told = printed(error);
    // Its stack says nothing of the matter.
    if (told !== error) told.stack = told.message;
    throw told;
  }
  project.provide('velo', { root });
  return () => suite.end();
}
