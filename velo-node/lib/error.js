'use strict';
// Velo's errors.

// The same for whoever loads this another time, as test runners do.
const MARK = Symbol.for('velo-node.error');

class VeloError extends Error {
  constructor(message, { kind = 'internal', hint, context = {}, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
    this.code = `VELO_${kind.toUpperCase()}`;
    this.hint = hint;
    this.context = context;
  }

  get name() {
    return 'VeloError';
  }

  get [MARK]() {
    return true;
  }

  static [Symbol.hasInstance](value) {
    return typeof value === 'object' && value !== null && value[MARK] === true;
  }
}

/** What the addon threw, as Velo's own. What it says of arguments has no kind. */
function converted(thrown) {
  if (thrown instanceof VeloError) return thrown;
  const { message, kind = 'invalid_input', hint, context, cause } = thrown;
  return new VeloError(message, { kind, hint, context, cause });
}

/** An error of somebody who wrote the wrong thing. */
function invalid(message, hint) {
  return new VeloError(message, { kind: 'invalid_input', hint });
}

/** Message and hint, for those who print only a message. */
function explained(error) {
  return error.hint ? `${error.message}\nhint: ${error.hint}` : error.message;
}

module.exports = { VeloError, converted, explained, invalid };
