module.exports = { preset: 'velo-node/jest', testMatch: ['<rootDir>/tests/**/*.test.js'] };
