'use strict';
// Settings.

const { direct, options, present } = require('./call.js');

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

// For those who load this another time.
const RAW = Symbol.for('velo-node.raw');

class Config {
  constructor(settings) {
    const given = present(options(settings, SETTINGS, 'Config'));
    const raw = direct((addon) => new addon.Config(given));
    Object.defineProperty(this, RAW, { value: raw });
  }

  get home() {
    return this[RAW].home;
  }

  get storage() {
    return this[RAW].storage;
  }
}

module.exports = { Config, RAW, SETTINGS };
