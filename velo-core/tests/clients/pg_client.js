const { Client } = require("pg");

const [over, text, url] = process.argv.slice(1);

(async () => {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query("INSERT INTO written VALUES ($1, $2)", [over, text]);
  const { rows } = await client.query("SELECT what FROM written WHERE over = $1", [over]);
  console.log(rows[0].what);
  await client.end();
})();
