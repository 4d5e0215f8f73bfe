'use strict';

// In this order: first a test's connections end, and then its database.
const { many } = require('../../tests/many.js');
const { copy } = require('../copy.js');

many(copy);
