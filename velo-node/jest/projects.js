'use strict';
// Which suites a run of Jest's is of: of several projects, Jest runs a globalSetup that they share for the first alone.

const { Suite } = require('../lib/suite.js');

/** The suites of all projects that have this globalSetup: that of `projectConfig` before others. */
async function suitesOf(globalConfig, projectConfig) {
  const suites = new Set([Suite.of(projectConfig.rootDir)]);
  if (globalConfig.projects?.length > 1 && !isNarrowed(globalConfig)) {
    for (const { rootDir, globalSetup } of await configsOf(globalConfig.projects)) {
      const suite = Suite.of(rootDir);
      // Where it is that of the whole run, others may have nothing to do with Velo.
      if (globalSetup === projectConfig.globalSetup && (globalSetup || suite.hasSeed)) suites.add(suite);
    }
  }
  return suites;
}

/** Whether somebody chose what runs. Of a project there may be nothing then, and no seed of it is to be in the way. */
function isNarrowed({ testPathPattern, testPathPatterns, onlyChanged, onlyFailures, findRelatedTests }) {
  const patterns = testPathPatterns?.patterns ?? testPathPattern ?? [];
  const isChosen = process.argv.some((arg) => /^--(select|ignore)-?projects/i.test(arg));
  return patterns.length > 0 || onlyChanged || onlyFailures || findRelatedTests || isChosen;
}

/** The settings of projects, which Jest gives nobody: only what they were read from. */
async function configsOf(projects) {
  // That of the Jest that runs, wherever it is installed.
  const file = Object.keys(require.cache).find((name) => /[\\/]jest-config[\\/]build[\\/]index\.js$/.test(name));
  return file === undefined ? [] : (await require(file).readConfigs({ _: [], $0: 'jest' }, projects)).configs;
}

module.exports = { suitesOf };
