'use strict';
// After the last test of a run: what it closed is gone from the disk when it ends.

const { Suite } = require('../lib/suite.js');

module.exports = async () => {
  for (const suite of Suite.all()) await suite.end();
};
