#!/bin/sh
# Makes certificates for the key server and for its client, the object store, and starts the server.
set -eu
cd "$SHARED/tls"

if [ ! -e server.crt ]; then
    kes identity new --key server.key --cert server.crt --expiry 8760h \
        --dns kes.internal --dns localhost --ip 127.0.0.1 kes.internal
fi
if [ ! -e client.crt ]; then
    kes identity new --key client.key --cert client.crt --expiry 8760h store
fi
STORE_IDENTITY=$(kes identity of client.crt)
export STORE_IDENTITY

exec kes server --config "${CONFIG:-/trial/config.yml}"
