/** For `globalTeardown`, or called in one's own: waits until the files of what was closed are gone. */
declare function teardown(globalConfig?: object, projectConfig?: object): Promise<void>;
export = teardown;
