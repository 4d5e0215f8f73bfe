import sys

from sqlalchemy import Column, MetaData, Table, Text, create_engine, insert, select

over, text, url = sys.argv[1:]
written = Table("written", MetaData(), Column("over", Text), Column("what", Text))
engine = create_engine(url)
with engine.begin() as connection:
    connection.execute(insert(written).values(over=over, what=text))
with engine.connect() as connection:
    print(connection.scalar(select(written.c.what).where(written.c.over == over)))
engine.dispose()
