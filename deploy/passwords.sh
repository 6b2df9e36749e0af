#!/bin/sh
# Prints the passwords that compose.yaml asks for, each a new random one.
set -eu
for name in SUPERUSER REPLICATION INTERFACE OWNER AUTH TICKETS ORDERS WORKERS GATE; do
    echo "${name}_PASSWORD=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
done
