// What each test's database begins with: Prisma's migrations, run once and not again until one of them changes.
export default { sql: 'prisma/migrations' };
