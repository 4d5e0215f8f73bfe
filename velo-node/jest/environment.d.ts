import NodeEnvironment from 'jest-environment-node';

/** For `testEnvironment`, or to extend for one of one's own: Jest's for Node, in which tests have `velo`. */
declare class VeloEnvironment extends NodeEnvironment {}

declare namespace VeloEnvironment {
  export { VeloEnvironment as TestEnvironment };
}

export = VeloEnvironment;
