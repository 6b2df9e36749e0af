-- name: register
-- A new user, or no row where the address is taken.
INSERT INTO auth.users (id, email, email_key, name, role, password_hash) VALUES ($1, $2, $3, $4, 'buyer', $5)
ON CONFLICT (email_key) DO NOTHING
RETURNING id, email, name, role, created_at;

-- name: is_taken
-- Whether an address belongs to somebody.
SELECT EXISTS (SELECT 1 FROM auth.users WHERE email_key = $1);

-- name: user
-- One user, as others may see it.
SELECT id, email, name, role, created_at FROM auth.users WHERE id = $1;

-- name: is_administrator
-- Whether a user is an administrator now; for the other services too.
SELECT auth.is_administrator($1);

-- name: log_in
-- What a log-in is decided by: the user of an address, if there is one, and how far failures ran ahead of the clock.
-- One row always, whether or not the address is known.
SELECT u.id, u.password_hash,
       coalesce(extract(epoch FROM f.arrival_at - clock_timestamp())::float8, 0) AS ahead_seconds
FROM (SELECT) AS always
LEFT JOIN auth.users u ON u.email_key = $1
LEFT JOIN auth.login_failures f ON f.account_key = $2;

-- name: count_failure
-- GCRA: one failure moves the account's arrival time on by $2 seconds.
INSERT INTO auth.login_failures AS f (account_key, arrival_at)
VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (account_key) DO UPDATE
SET arrival_at = greatest(f.arrival_at, clock_timestamp()) + make_interval(secs => $2);

-- name: begin_session
-- The first refresh token of a family, for a user whose password is still the one that was checked. The lock makes a
-- change of password, which ends all sessions, see this one or be seen by it.
WITH known AS (
    SELECT id, role FROM auth.users WHERE id = $1 AND password_hash = $2 FOR SHARE
), begun AS (
    INSERT INTO auth.refresh_tokens (token_hash, family_id, user_id, expires_at)
    SELECT $3, $4, id, clock_timestamp() + make_interval(secs => $5) FROM known
)
SELECT role FROM known;

-- name: renew_password_hash
-- The same password under today's parameters.
UPDATE auth.users SET password_hash = $3 WHERE id = $1 AND password_hash = $2;

-- name: refresh
-- Uses a refresh token and issues the next of its family; of several at the same time one wins the row. No row: never
-- heard of. No user: expired, revoked or used; `reused` when that use had ended before this request came, $4 seconds
-- ago (so it is no double click). A family counts as revoked when any of its tokens is: one that is issued while its
-- family is being revoked is not seen by that statement.
WITH shown AS (
    SELECT t.family_id, t.used_at,
           EXISTS (SELECT 1 FROM auth.refresh_tokens r WHERE r.family_id = t.family_id AND r.revoked_at IS NOT NULL)
               AS revoked
    FROM auth.refresh_tokens t WHERE t.token_hash = $1
), won AS (
    UPDATE auth.refresh_tokens t SET used_at = clock_timestamp()
    WHERE t.token_hash = $1 AND t.used_at IS NULL AND t.expires_at > clock_timestamp()
      AND NOT (SELECT s.revoked FROM shown s)
    RETURNING t.family_id, t.user_id
), issued AS (
    INSERT INTO auth.refresh_tokens (token_hash, family_id, user_id, expires_at)
    SELECT $2, w.family_id, w.user_id, clock_timestamp() + make_interval(secs => $3) FROM won w
)
SELECT s.family_id, u.id AS user_id, u.role,
       coalesce(s.used_at < clock_timestamp() - make_interval(secs => $4), false) AS reused
FROM shown s LEFT JOIN won w ON true LEFT JOIN auth.users u ON u.id = w.user_id;

-- name: revoke_family
-- Ends a session: none of its tokens can be used any more.
UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp() WHERE family_id = $1 AND revoked_at IS NULL;

-- name: log_out
-- Ends the session that a refresh token belongs to.
UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp()
WHERE revoked_at IS NULL AND family_id = (SELECT family_id FROM auth.refresh_tokens WHERE token_hash = $1);

-- name: revoke_sessions
-- Ends all sessions of a user.
UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp() WHERE user_id = $1 AND revoked_at IS NULL;

-- name: make_administrator
-- A new administrator, or a user who becomes one with a new password.
INSERT INTO auth.users (id, email, email_key, role, password_hash) VALUES ($1, $2, $3, 'admin', $4)
ON CONFLICT (email_key) DO UPDATE SET role = 'admin', password_hash = excluded.password_hash
RETURNING id, email, name, role, created_at;

-- name: lock_administrators
-- All administrators, locked, so that two of them cannot take the role from each other at the same time.
SELECT id FROM auth.users WHERE role = 'admin' ORDER BY id FOR UPDATE;

-- name: change_role
-- Gives a user another role.
UPDATE auth.users SET role = $2 WHERE id = $1 RETURNING id, email, name, role, created_at;

-- name: new_setup_link
-- A new link in place of all earlier ones; no row where there is an administrator.
WITH gone AS (
    DELETE FROM auth.setup_links
)
INSERT INTO auth.setup_links (token_hash, expires_at)
SELECT $1, clock_timestamp() + make_interval(secs => $2)
WHERE NOT EXISTS (SELECT 1 FROM auth.users WHERE role = 'admin')
RETURNING expires_at;

-- name: setup_link_works
-- Whether a link could be used now.
SELECT EXISTS (
    SELECT 1 FROM auth.setup_links WHERE token_hash = $1 AND used_at IS NULL AND expires_at > clock_timestamp()
);

-- name: use_setup_link
-- Uses a link; of several at the same time one gets the row.
UPDATE auth.setup_links SET used_at = clock_timestamp()
WHERE token_hash = $1 AND used_at IS NULL AND expires_at > clock_timestamp()
RETURNING token_hash;

-- name: end_setup_links
-- Once there is an administrator, no link is good any more.
UPDATE auth.setup_links SET used_at = clock_timestamp() WHERE used_at IS NULL;

-- name: forget_failures
-- Failures that no longer count.
SELECT auth.forget_failures();

-- name: forget_refresh_tokens
-- At most $2 refresh tokens whose end is longer ago than one more lifetime, $1 seconds: how many they were.
SELECT auth.forget_refresh_tokens($1, $2);
