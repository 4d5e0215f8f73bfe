// What each test's database begins with: the migrations, run once and not again until they change.
module.exports = { sql: 'migrations' };
