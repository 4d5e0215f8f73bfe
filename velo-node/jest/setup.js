'use strict';
// Before the first test of a run: the seeds are built, and what keeps all tests from running is said once.

const { obstacle } = require('../lib/suite.js');
const { suitesOf } = require('./projects.js');

module.exports = async (globalConfig, projectConfig) => {
  const isWatched = globalConfig.watch || globalConfig.watchAll;
  const suites = await suitesOf(globalConfig, projectConfig);
  try {
    for (const suite of suites) await suite.begin({ isWatched });
  } catch (error) {
    throw obstacle(error);
  }
};
