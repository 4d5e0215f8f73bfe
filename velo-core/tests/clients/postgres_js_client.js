const postgres = require("postgres");

const [over, text, url, socketDir] = process.argv.slice(1);

(async () => {
  const sql = postgres(url, socketDir ? { host: socketDir } : {});
  await sql`INSERT INTO written VALUES (${over}, ${text})`;
  const rows = await sql`SELECT what FROM written WHERE over = ${over}`;
  console.log(rows[0].what);
  await sql.end();
})();
