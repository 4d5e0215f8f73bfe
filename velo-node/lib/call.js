'use strict';
// How the handles call the addon.

const { addon } = require('./addon.js');
const { VeloError, converted, invalid } = require('./error.js');

/**
 * The promise of a call that `make` gives of the addon. A signal that is aborted has it given up: it is rejected, and
 * what was begun is undone.
 */
async function call(make, signal) {
  checkSignal(signal);
  const made = direct(make);
  const stop = () => made.cancel();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    return await made.wait();
  } catch (error) {
    if (signal?.aborted && error.kind === 'canceled') throw canceled(signal);
    throw converted(error);
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** What `make` gives of the addon at once. */
function direct(make) {
  const loaded = addon();
  try {
    return make(loaded);
  } catch (error) {
    throw converted(error);
  }
}

/** What `run` gives, unless the signal is aborted before. `run` knows nothing of that, and what it does later is lost. */
async function unlessAborted(run, signal) {
  checkSignal(signal);
  let stop;
  const aborted = new Promise((_, reject) => {
    stop = () => reject(canceled(signal));
    signal?.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([aborted, (async () => run())()]);
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

function checkSignal(signal) {
  if (signal === undefined || signal === null) return;
  // One of another realm, as in a test runner's, is no instance of this one's class.
  if (typeof signal !== 'object' || typeof signal.addEventListener !== 'function' || !('aborted' in signal)) {
    throw invalid('the signal is no AbortSignal');
  }
  if (signal.aborted) throw canceled(signal);
}

function canceled(signal) {
  return new VeloError('canceled: its signal was aborted', { kind: 'canceled', cause: signal.reason });
}

/** The options that somebody gave. A name that is none is an error, for it would be passed over. */
function options(given, names, of) {
  if (given === undefined || given === null) return {};
  if (typeof given !== 'object') throw invalid(`the options of ${of} are an object`);
  for (const name of Object.keys(given)) {
    if (!names.includes(name)) throw invalid(`${of} has no option ${name}`, `it has ${names.join(', ')}`);
  }
  return given;
}

/** What is there of an object: to the addon a null is a value, and of the wrong kind. */
function present(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== null));
}

module.exports = { call, checkSignal, direct, options, present, unlessAborted };
