// What the types say, by what they allow and what they do not.

import { expectTypeOf } from 'expect-type';
import velo, { Branch, Config, Project, VeloError } from 'velo-node';
import type { BranchInfo, Connection, ErrorKind, Pool, ProjectInfo, Reached, RestorePoint } from 'velo-node';
import type { Seed, SeedInfo, Snapshot, Source, SourceInfo } from 'velo-node';

const config = new Config({ storage: 'btrfs', ports: [21000, 21999], cpus: 1.5 });
// @ts-expect-error there is no such setting
new Config({ colour: 'red' });
// @ts-expect-error there is no such storage
new Config({ storage: 'floppy' });

const project = await Project.openOrCreate('api', { config, role: 'app' });
expectTypeOf(project).toEqualTypeOf<Project>();
expectTypeOf(project.info).returns.resolves.toEqualTypeOf<ProjectInfo>();
expectTypeOf<ProjectInfo['source']>().toEqualTypeOf<SourceInfo | null>();
// @ts-expect-error handles come from Velo
new Project();

await using branch = await Branch.create(project, { from: 'main', signal: AbortSignal.timeout(1000) });
expectTypeOf(branch).toEqualTypeOf<Branch>();
expectTypeOf(branch.url).toEqualTypeOf<string>();
expectTypeOf(branch.name).toEqualTypeOf<string | null>();
expectTypeOf(branch.connection).toEqualTypeOf<Connection>();
expectTypeOf(branch.info).returns.resolves.toEqualTypeOf<BranchInfo>();
expectTypeOf(branch.snapshot).returns.resolves.toEqualTypeOf<Snapshot>();
expectTypeOf(branch.close).returns.resolves.toEqualTypeOf<void>();
expectTypeOf<BranchInfo['expiresAt']>().toEqualTypeOf<Date | null>();
expectTypeOf(branch.restorePoint).returns.resolves.toEqualTypeOf<RestorePoint>();
expectTypeOf<BranchInfo['reached']>().toEqualTypeOf<Reached | null>();
await Branch.create(project, { at: new Date(0), exclusive: true });
await Branch.create(project, { atXid: 700n });
// @ts-expect-error it is not written
branch.url = '';
// @ts-expect-error there is no such option
await Branch.create(project, { colour: 'red' });

const seed = await project.seed({ files: ['migrations/**'], build: async (made) => void made.url });
await project.seed({ build: (_, { signal }) => expectTypeOf(signal).toEqualTypeOf<AbortSignal | undefined>() });
expectTypeOf(seed).toEqualTypeOf<Seed>();
expectTypeOf(await seed.pool()).toEqualTypeOf<Pool>();
expectTypeOf(project.pruneSeeds).returns.resolves.toEqualTypeOf<SeedInfo[]>();
expectTypeOf(branch).toExtend<Source>();
// @ts-expect-error a seed needs what makes it
await project.seed({ files: 'migrations/**' });

try {
  await branch.reset({ origin: true });
} catch (error) {
  if (error instanceof VeloError) {
    expectTypeOf(error.kind).toEqualTypeOf<ErrorKind>();
    expectTypeOf(error.hint).toEqualTypeOf<string | undefined>();
  }
}
expectTypeOf(velo.Project).toEqualTypeOf(Project);
