'use strict';
// What a seed's key takes of files, and of the code that builds it.

const { existsSync } = require('node:fs');
const path = require('node:path');
const { invalid } = require('./error.js');

/** The files and patterns that somebody names, relative ones in `base`. */
function patternsOf(files, base) {
  const all = typeof files === 'string' ? [files] : [...(files ?? [])];
  return all.map((pattern) => {
    if (typeof pattern !== 'string') throw invalid(`${String(pattern)} is no pattern of files`);
    const absolute = path.resolve(base, pattern);
    if (path.isAbsolute(pattern) || existsSync(absolute)) return absolute;
    // The folder is no pattern, whatever its name.
    return path.join(base.replace(/[*?[\]]/g, '[$&]'), pattern);
  });
}

/** The text of a function: what it calls elsewhere does not count. */
function codeOf(build) {
  const text = Function.prototype.toString.call(build);
  if (text.includes('[native code]')) {
    throw invalid(
      'the code that builds the seed cannot be read, so that nobody could tell when the seed is stale',
      'give `code`, a text that changes with it',
    );
  }
  return text;
}

module.exports = { codeOf, patternsOf };
