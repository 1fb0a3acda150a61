-- Roles, database, extensions and default privileges of LeadEngine (spec/sessions.md section 5).
--
-- `manage.py up` runs this file on its embedded server. On a server of your own (PostgreSQL 15 or newer) run it once,
-- before the first `manage.py migrate`, as a superuser, or as a role with CREATEROLE, CREATEDB and BYPASSRLS:
--
--   export LEADENGINE_OWNER_PASSWORD=… LEADENGINE_APP_PASSWORD=… LEADENGINE_BACKUP_PASSWORD=…
--   psql -X "postgresql://postgres@HOST/postgres" -f deploy/postgres/roles.sql
--
-- then set DATABASE_URL (role leadengine_app), ADMIN_DATABASE_URL (leadengine_owner) and DATABASE_BACKUP_URL
-- (leadengine_backup). `-v database=NAME` names another database than `leadengine`. The passwords may also be given as
-- psql variables (-v owner_password=… and so on), but a command line can be read by every user of the machine.
-- Running the file again changes nothing but the passwords. Switch log_statement off while it runs.

\set ON_ERROR_STOP on
\if :{?database}
\else
  \set database leadengine
\endif
\if :{?owner_password}
\else
  \getenv owner_password LEADENGINE_OWNER_PASSWORD
\endif
\if :{?app_password}
\else
  \getenv app_password LEADENGINE_APP_PASSWORD
\endif
\if :{?backup_password}
\else
  \getenv backup_password LEADENGINE_BACKUP_PASSWORD
\endif
\if :{?owner_password}
\else
  DO $$ BEGIN RAISE 'LEADENGINE_OWNER_PASSWORD is not set'; END $$;
\endif
\if :{?app_password}
\else
  DO $$ BEGIN RAISE 'LEADENGINE_APP_PASSWORD is not set'; END $$;
\endif
\if :{?backup_password}
\else
  DO $$ BEGIN RAISE 'LEADENGINE_BACKUP_PASSWORD is not set'; END $$;
\endif

-- 1. Roles. NOINHERIT: with inheritance the application would hold the service role's privileges without asking.
SELECT format('CREATE ROLE %I', role)
  FROM unnest(ARRAY['leadengine_owner', 'leadengine_app', 'leadengine_service', 'leadengine_backup']) AS role
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec
-- CREATEDB: `backup_verify` restores into a database of its own, beside the product's, and drops it.
ALTER ROLE leadengine_owner LOGIN CREATEDB PASSWORD :'owner_password';
ALTER ROLE leadengine_app LOGIN NOINHERIT PASSWORD :'app_password';
ALTER ROLE leadengine_service NOLOGIN BYPASSRLS;
ALTER ROLE leadengine_backup LOGIN BYPASSRLS PASSWORD :'backup_password';
GRANT leadengine_service TO leadengine_app, leadengine_owner;
GRANT pg_read_all_data TO leadengine_backup;
-- Who is not a superuser must be a member of the owner to hand it a database and set its default privileges.
SELECT 'GRANT leadengine_owner TO CURRENT_USER'
 WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
\gexec
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname IN ('leadengine_owner', 'leadengine_app')
                     AND (rolsuper OR rolbypassrls)) AS bounded
\gset
\if :bounded
\else
  DO $$ BEGIN RAISE 'leadengine_owner and leadengine_app must be neither SUPERUSER nor BYPASSRLS'; END $$;
\endif

-- 2. The database: nobody connects or makes temporary tables but those who are named.
SELECT format('CREATE DATABASE %I OWNER leadengine_owner ENCODING ''UTF8'' TEMPLATE template0', :'database')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO leadengine_app, leadengine_backup;
\connect :"database"

-- 3. Search (D41).
CREATE EXTENSION IF NOT EXISTS unaccent WITH SCHEMA public;
CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;

-- 4. Only the owner makes tables. What it makes is readable and writable by the two runtime roles, never truncatable:
-- TRUNCATE ignores row level security. Migrations take DELETE away where rows must stay.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO leadengine_owner;
GRANT USAGE ON SCHEMA public TO leadengine_app, leadengine_service, leadengine_backup;
ALTER DEFAULT PRIVILEGES FOR ROLE leadengine_owner IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO leadengine_app, leadengine_service;
ALTER DEFAULT PRIVILEGES FOR ROLE leadengine_owner IN SCHEMA public
  GRANT USAGE, SELECT ON SEQUENCES TO leadengine_app, leadengine_service;
