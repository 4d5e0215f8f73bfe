'use strict';

const { many } = require('./many.js');

many(async () => (await velo.branch()).url);
