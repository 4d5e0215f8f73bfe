'use strict';
// Git branches for PostgreSQL. What is here is described in index.d.ts.

const { Config } = require('./lib/config.js');
const { VeloError } = require('./lib/error.js');
const { Branch, Connection, Pool, Project, Seed, Snapshot } = require('./lib/handles.js');
const { version } = require('./package.json');

module.exports = { Branch, Config, Connection, Pool, Project, Seed, Snapshot, VeloError, version };
