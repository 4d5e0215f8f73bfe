module.exports = {
  rootDir: __dirname,
  globalSetup: '<rootDir>/setup.js',
  globalTeardown: '<rootDir>/teardown.js',
};
