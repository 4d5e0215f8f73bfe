'use strict';
// The addon: that of this machine's platform, loaded when it is first needed.

const { existsSync } = require('node:fs');
const path = require('node:path');
const { VeloError } = require('./error.js');

const PLATFORMS = ['linux-x64-gnu', 'linux-x64-musl', 'linux-arm64-gnu', 'linux-arm64-musl'];

let loaded;

/** The addon of this platform. It is loaded once for each thread, and what it holds is there once for the process. */
function addon() {
  if (loaded === undefined) {
    loaded = load();
    // What the processes of a test run have in common is held by one more Node, which is no other version of Velo.
    loaded.useKeeper(...keeper());
  }
  return loaded;
}

function load() {
  const platform = platformOf(process);
  if (!PLATFORMS.includes(platform)) {
    throw new VeloError(`unsupported platform: ${platform}`, {
      kind: 'unsupported',
      hint: `velo-node is built for ${PLATFORMS.join(', ')}`,
    });
  }
  const name = `velo-node-${platform}`;
  try {
    return require(name);
  } catch (cause) {
    if (cause.code === 'MODULE_NOT_FOUND') {
      throw new VeloError(`the package ${name}, which has the addon of this platform, is not installed`, {
        kind: 'not_found',
        hint: 'install velo-node with its optional dependencies: npm install --include=optional velo-node',
        cause,
      });
    }
    throw new VeloError(`the addon of this platform cannot be loaded: ${cause.message}`, {
      kind: 'unsupported',
      hint: `look at the package ${name}`,
      cause,
    });
  }
}

/** What a platform is called in the names of packages. */
function platformOf({ platform, arch, report }) {
  if (platform !== 'linux') return `${platform}-${arch}`;
  return `linux-${arch}-${usesGlibc(report) ? 'gnu' : 'musl'}`;
}

function usesGlibc(report) {
  // The names of this machine's network are no business of ours, and looking them up may take seconds.
  const before = report.excludeNetwork;
  report.excludeNetwork = true;
  try {
    return report.getReport().header.glibcVersionRuntime !== undefined;
  } finally {
    report.excludeNetwork = before;
  }
}

/** The program that a keeper is. A debugger, a loader or a coverage that the tests run with is not for it. */
function keeper() {
  const command = [process.execPath, path.join(__dirname, '..', 'bin', 'velo')];
  const env = '/usr/bin/env';
  return existsSync(env) ? [env, ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', ...command]] : [command[0], command.slice(1)];
}

module.exports = { PLATFORMS, addon, platformOf };
