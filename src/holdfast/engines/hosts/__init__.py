"""PostgreSQL on several hosts: which is the primary, connections to it, and reads from its replicas."""
