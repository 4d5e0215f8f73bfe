// `globalSetup: ['velo-node/vitest/setup']`: before the first test the seeds are built, and what keeps all tests from
// running is said once.

import suites from '../lib/suite.js';

const { Suite, obstacle } = suites;

export default async function setup(project) {
  // That of the whole run's config is there for all its projects.
  const projects = project.isRootProject() ? project.vitest.projects : [project];
  for (const one of projects) one.provide('velo', { root: suiteOf(one).root });
  const begun = await suitesOf(project, projects);
  try {
    for (const suite of begun) await suite.begin();
  } catch (error) {
    throw obstacle(error);
  }
  // What goes wrong then is said by the tests, which ask for the same.
  project.onTestsRerun(async () => {
    for (const suite of begun) await suite.begin({ isWatched: true }).catch(() => {});
  });
  return async () => {
    for (const suite of begun) await suite.end();
  };
}

/** The suite of a project: that of its root, else, without a seed there, that of the whole run's. */
function suiteOf({ config, vitest }) {
  const own = Suite.of(config.root);
  return own.hasSeed ? own : Suite.of(vitest.config.root);
}

/** The suites of projects that share this globalSetup, which is that of `project`. */
async function suitesOf(project, projects) {
  const found = new Set(projects.includes(project) ? [suiteOf(project)] : []);
  if (projects.every((one) => one === project)) return found;
  // Of a project nothing runs where somebody chose other files, and no seed of it is to be in the way.
  const { vitest } = project;
  for (const { project: one } of await vitest.globTestSpecifications(vitest.filenamePattern)) {
    const suite = suiteOf(one);
    // It may have nothing to do with Velo.
    if (suite.hasSeed) found.add(suite);
  }
  return found;
}
