"""The engines: private PostgreSQL and Valkey servers, and the pools that reach them or those given by URL."""
