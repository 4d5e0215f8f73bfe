INSERT INTO people SELECT max(id) + 1, 'Ben' FROM people;
