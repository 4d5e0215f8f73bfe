'use strict';
// Before the first test of a run: what keeps all of them from running is said once.

const { Suite, printed } = require('../lib/suite.js');

module.exports = async (globalConfig, projectConfig) => {
  try {
    await Suite.of(projectConfig.rootDir).project();
  } catch (error) {
    const told = printed(error);
    // Jest prints the stack, which says nothing of the matter.
    if (told !== error) told.stack = told.message;
    throw told;
  }
};
