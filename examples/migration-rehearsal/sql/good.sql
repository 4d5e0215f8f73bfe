UPDATE users u SET email = 'duplicate-' || id || '-' || email
 WHERE EXISTS (SELECT FROM users o WHERE o.email = u.email AND o.id < u.id);
ALTER TABLE users ADD CONSTRAINT users_email UNIQUE (email);
