import sys

import psycopg

over, text, url = sys.argv[1:]
with psycopg.connect(url) as connection:
    connection.execute("INSERT INTO written VALUES (%s, %s)", (over, text))
with psycopg.connect(url) as connection:
    print(connection.execute("SELECT what FROM written WHERE over = %s", (over,)).fetchone()[0])
