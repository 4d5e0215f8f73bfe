'use strict';
// Settings.

const { inspect } = require('node:util');
const { direct, options, present } = require('./call.js');
const { invalid } = require('./error.js');

const SETTINGS = [
  'home',
  'cache',
  'file',
  'storage',
  'zfsDataset',
  'zfsProperties',
  'runtime',
  'image',
  'memory',
  'cpus',
  'shmSize',
  'pgBin',
  'pgVersion',
  'user',
  'ports',
  'startTimeout',
  'maxRunning',
  'maxMemory',
  'slotTimeout',
  'keepFree',
];

/** Those that are whole numbers: the addon would cut off what is behind the point. */
const WHOLE = ['pgVersion', 'maxRunning'];

// For those who load this another time.
const RAW = Symbol.for('velo-node.raw');

class Config {
  constructor(settings) {
    const given = present(options(settings, SETTINGS, 'Config'));
    for (const name of WHOLE) if (name in given) checkWhole(name, given[name]);
    for (const port of Array.isArray(given.ports) ? given.ports : []) checkWhole('ports', port);
    const raw = direct((addon) => new addon.Config(given));
    Object.defineProperty(this, RAW, { value: raw });
  }

  get home() {
    return this[RAW].home;
  }

  get pgVersion() {
    return this[RAW].pgVersion ?? null;
  }

  get storage() {
    return this[RAW].storage;
  }
}

function checkWhole(name, number) {
  const isRight = Number.isInteger(number) && number >= 0 && number <= 0xffffffff;
  if (!isRight) throw invalid(`${name} is a whole number, and ${inspect(number)} is none`);
}

module.exports = { Config, RAW, SETTINGS };
