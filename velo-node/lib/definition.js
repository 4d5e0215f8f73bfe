'use strict';
// What velo.seed.js says, as it is now.

const { existsSync, readFileSync } = require('node:fs');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { VeloError, invalid } = require('./error.js');

const SEED_FILES = ['js', 'cjs', 'mjs', 'ts', 'cts', 'mts'].map((ending) => `velo.seed.${ending}`);
const SEED_NAMES = ['build', 'sql', 'files', 'texts', 'label', 'project', 'config', 'ready'];
const EMPTY = { build: () => {}, code: 'empty', label: 'empty' };

function seedFile(root) {
  return SEED_FILES.map((name) => path.join(root, name)).find(existsSync);
}

const hasSeed = (root) => seedFile(root) !== undefined;

/**
 * The root of the suite whose tests are in `folder`: where velo.seed.js is, there or in the package that it belongs to, as
 * where a runner's own root is `src`. Without one it is the folder.
 */
function rootOf(folder) {
  if (hasSeed(folder)) return folder;
  let root = folder;
  while (!existsSync(path.join(root, 'package.json'))) {
    if (root === path.dirname(root)) return folder;
    root = path.dirname(root);
  }
  return hasSeed(root) ? root : folder;
}

/** The text of the file that says how the seed is made, or nothing. */
function codeOf(root) {
  const file = seedFile(root);
  return file === undefined ? '' : readFileSync(file, 'utf8');
}

/** What velo.seed.js says, evaluated anew each time: its code, what that requires, and its texts may have changed. */
async function definitionOf(root) {
  const file = seedFile(root);
  if (file === undefined) return EMPTY;
  const code = codeOf(root);
  const { exported, isNew } = await loaded(file);
  const told = typeof exported === 'function' ? { build: exported } : exported;
  if (typeof told !== 'object' || told === null) throw invalid(`${file} exports neither a function nor an object`);
  for (const name of Object.keys(told)) {
    if (!SEED_NAMES.includes(name)) throw invalid(`${file} has no option ${name}`, `it has ${SEED_NAMES.join(', ')}`);
  }
  if (told.sql !== undefined && (told.build !== undefined || told.files !== undefined)) {
    throw invalid(`${file} has sql, and build or files beside it`, 'sql alone says which files are run');
  }
  if (told.sql === undefined && typeof told.build !== 'function') {
    throw invalid(`${file} has neither sql nor build`, 'sql names files; build is a function that is given a branch');
  }
  const build = isNew || told.build === undefined ? told.build : () => refuse(file);
  // Of SQL files lists have the name of their folder.
  return { label: told.sql === undefined ? 'seed' : undefined, ...told, build, code };
}

const STALE = 'stale';
const isStale = (error) => error instanceof VeloError && error.context[STALE] !== undefined;

/** What was built by code of before would be stored under the key of the files as they are now. */
function refuse(file) {
  throw new VeloError(`the seed is to be built anew, and this process may have old code of it: ${file} imports modules`, {
    kind: 'conflict',
    context: { [STALE]: file },
    hint: 'start the run again: what is imported cannot be loaded twice in a process, what CommonJS requires can',
  });
}

/** How often each file was loaded in this thread. */
const times = new Map();

/** What a module exports, and whether nothing of it, nor of what it loads, is from an earlier time. */
async function loaded(file) {
  const time = (times.get(file) ?? 0) + 1;
  times.set(file, time);
  const isForgotten = forget(file);
  let exported;
  try {
    exported = require(file);
  } catch (error) {
    if (!ONLY_IMPORTED.includes(error.code) && !(error instanceof SyntaxError)) throw error;
  }
  const isRequired = exported !== undefined && !isModule(exported);
  if (exported === undefined || (time > 1 && !isRequired)) {
    // A module of ESM is there once under each name.
    exported = await import(time === 1 ? pathToFileURL(file) : `${pathToFileURL(file)}?velo=${time}`).catch((error) => {
      throw NO_IMPORT.test(error.code) ? sandboxed(file, error) : error;
    });
  }
  const isDefault = (isModule(exported) || exported.__esModule) && exported.default !== undefined;
  return { exported: isDefault ? exported.default : exported, isNew: time === 1 || (isRequired && isForgotten) };
}

const ONLY_IMPORTED = ['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE', 'ERR_UNKNOWN_FILE_EXTENSION'];
const NO_IMPORT = /^ERR_VM_DYNAMIC_IMPORT_CALLBACK_MISSING(_FLAG)?$/;

/** What Jest runs tests in loads no ES modules; the preset is outside of it. */
function sandboxed(file, cause) {
  return new VeloError(`${file} is an ES module, which Jest cannot load without the preset`, {
    kind: 'invalid_input',
    hint: 'use the preset, or write it as CommonJS (velo.seed.cjs)',
    cause,
  });
}

const isModule = (exported) => exported?.[Symbol.toStringTag] === 'Module';

/** Has a module and all that it required be loaded anew, but for installed packages. Whether that is all of it. */
function forget(file) {
  const found = new Set();
  const open = [require.cache[file]];
  while (open.length > 0) {
    const one = open.pop();
    if (one === undefined || found.has(one) || isInstalled(one.filename)) continue;
    found.add(one);
    open.push(...(one.children ?? []));
  }
  let isAll = true;
  for (const one of found) {
    delete require.cache[one.filename];
    // Test runners do not let go of what they loaded; and what is imported is not in this cache.
    if (require.cache[one.filename] !== undefined || isModule(one.exports) || imports(one.filename)) isAll = false;
  }
  if (module.children) module.children = module.children.filter((child) => !found.has(child));
  return isAll;
}

const OWN = path.join(__dirname, path.sep, '..', path.sep);
const isInstalled = (file) => /[\\/]node_modules[\\/]|\.node$/.test(file) || file.startsWith(OWN);

/** Whether a file imports what may change: anything but an installed package. */
function imports(file) {
  let text;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    // It is gone, and nobody can tell what it imported.
    return true;
  }
  const code = text.replace(/\/\*[^]*?\*\/|(?<=^|\s)\/\/.*$/gm, '');
  return /\bimport\s*\((?!\s*['"][^'"./])/.test(code);
}

module.exports = { codeOf, definitionOf, hasSeed, isStale, rootOf };
