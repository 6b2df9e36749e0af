-- Run by psql as the superuser, after `holdfast migrate --create-roles`; `auth`, `tickets`, `orders` and `workers` are
-- passwords. Each service logs in as a role of its own, a member of its group.
\set ON_ERROR_STOP on
SELECT format('CREATE ROLE %I', service || '_service')
FROM unnest(ARRAY['auth', 'tickets', 'orders', 'workers']) AS service
WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = service || '_service') \gexec
ALTER ROLE auth_service LOGIN PASSWORD :'auth';
GRANT holdfast_auth TO auth_service;
ALTER ROLE tickets_service LOGIN PASSWORD :'tickets';
GRANT holdfast_tickets TO tickets_service;
ALTER ROLE orders_service LOGIN PASSWORD :'orders';
GRANT holdfast_orders TO orders_service;
ALTER ROLE workers_service LOGIN PASSWORD :'workers';
GRANT holdfast_workers TO workers_service;
