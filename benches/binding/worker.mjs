// Makes a branch each time it is told to, by the npm package that is installed beside this file, and says how long it took.
//
// One line in, one out: `promise`; the nanoseconds until the branch was there. It has ended before the next line is read.
// The project is the one that the environment's `VELO_HOME` has.

import { createInterface } from 'node:readline';
import { Branch, Project } from 'velo-node';

const project = await Project.open('api');
for await (const _ of createInterface({ input: process.stdin })) {
  const begun = process.hrtime.bigint();
  const branch = await Branch.create(project);
  const took = process.hrtime.bigint() - begun;
  await branch.close();
  console.log(String(took));
}
