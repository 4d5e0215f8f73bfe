import { defineConfig } from 'vitest/config';

export default defineConfig({ test: { globalSetup: ['velo-node/vitest/setup'] } });
