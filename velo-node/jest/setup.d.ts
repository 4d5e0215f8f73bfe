/** For `globalSetup`, or called in one's own with what that is given: builds the seed of each project that has it. */
declare function setup(globalConfig: object, projectConfig: { readonly rootDir: string }): Promise<void>;
export = setup;
