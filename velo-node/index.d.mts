import * as velo from './index.js';

export * from './index.js';
export default velo;
