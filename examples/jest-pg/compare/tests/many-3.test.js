'use strict';

const { copy } = require('../copy.js');
const { many } = require('../../tests/many.js');

many(copy);
