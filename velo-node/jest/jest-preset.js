'use strict';
// `preset: 'velo-node/jest'`.

module.exports = {
  globalSetup: require.resolve('./setup.js'),
  globalTeardown: require.resolve('./teardown.js'),
  testEnvironment: require.resolve('./environment.js'),
};
