-- Run by psql as the superuser; `owner` is a password. Running it again changes nothing but that.
\set ON_ERROR_STOP on
SELECT 'CREATE ROLE holdfast' WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'holdfast') \gexec
ALTER ROLE holdfast LOGIN CREATEROLE PASSWORD :'owner';
SELECT 'CREATE DATABASE holdfast OWNER holdfast'
WHERE NOT EXISTS (SELECT 1 FROM pg_database WHERE datname = 'holdfast') \gexec
