#!/bin/sh
# Sets up OpenBao for the key server: a K/V engine, a policy, a role, and a secret to log in with.
set -eu

bao secrets list | grep -q '^kv/' || bao secrets enable -path=kv -version=2 kv
bao auth list | grep -q '^approle/' || bao auth enable approle
# What `kes doctor store-policy` prints for the configuration beside this file.
bao policy write kes - <<'POLICY'
path "kv/data/+" {
  capabilities = ["create", "read"]
}
path "kv/metadata/+" {
  capabilities = ["delete"]
}
path "kv/metadata/" {
  capabilities = ["list"]
}
path "auth/approle/role/kes/secret-id/lookup" {
  capabilities = ["update"]
}
POLICY
bao write auth/approle/role/kes token_policies=kes token_period=5m
bao write auth/approle/role/kes/role-id role_id=kes-trial

umask 077
mkdir -p "$SHARED/tls"
bao write -force -field=secret_id auth/approle/role/kes/secret-id >"$SHARED/secret-id"
chown -R "$OWNER" "$SHARED"
