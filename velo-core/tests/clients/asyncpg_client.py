import asyncio
import sys

import asyncpg


async def main(over, text, url):
    connection = await asyncpg.connect(url)
    await connection.execute("INSERT INTO written VALUES ($1, $2)", over, text)
    print(await connection.fetchval("SELECT what FROM written WHERE over = $1", over))
    await connection.close()


asyncio.run(main(*sys.argv[1:]))
