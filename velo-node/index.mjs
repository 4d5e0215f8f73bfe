// The same as what `require` gives, so that a process has it once, whichever way it is loaded.
import velo from './index.js';

export const { Branch, Config, Connection, Pool, Project, Seed, Snapshot, VeloError, version } = velo;
export default velo;
