'use strict';
// Before the first test of a run: the seed is built, and what keeps all tests from running is said once.

const { Suite, obstacle } = require('../lib/suite.js');

module.exports = async (globalConfig, projectConfig) => {
  try {
    await Suite.of(projectConfig.rootDir).begin({ isWatched: globalConfig.watch || globalConfig.watchAll });
  } catch (error) {
    throw obstacle(error);
  }
};
