'use strict';
// After the last test of a run: what it closed is gone from the disk when it ends.

const { Suite } = require('../lib/suite.js');

module.exports = async (globalConfig, projectConfig) => {
  await Suite.of(projectConfig.rootDir).end();
};
