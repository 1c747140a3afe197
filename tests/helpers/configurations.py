"""Configuration files that are wrong in one way, and the error that each one gets."""

from __future__ import annotations

from tests.helpers.vectors import vectors

VECTORS = vectors("config")


ADMIN = "c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d"


START = f"""\
admin:
  identity: {ADMIN}
tls:
  key: server.key
  cert: server.crt
keystore:
  fs:
    path: /tmp/keys
"""


IDENTITY = "df7281ca3fed4ef7d06297eb7cb9d590a4edc863b4425f4762bb2afaebfd3258"


AS_IN = "as in 10s, 1m30s, 500ms or 168h"


UNITS = "units are h, m, s, ms, us and ns"


INSTALLED = "aws, azure, demo, entrust, fortanix, fs, gcp, gemalto, memory, vault"


LEVELS = "allowed: on, off, debug, info, warn, error, each of these four with +n"


NAME_RULE = "1 to 80 of A-Z a-z 0-9 - _, no - at either end"


BROKEN = {
    "colour: blue": "config.yml:9: colour: unknown field. Allowed: version, address, workers, runtime, admin, tls, "
    "api, policy, cache, deletion, log, audit, probe, keys, plugins, keystore, policy_engines, "
    "audit_sinks, frontends",
    "adress: a:1": "config.yml:9: adress: unknown field; did you mean 'address'? Allowed: version, address, "
    "workers, runtime, admin, tls, api, policy, cache, deletion, log, audit, probe, keys, plugins, keystore, "
    "policy_engines, audit_sinks, frontends",
    "policy:\n  p:\n    alow: []": "config.yml:11: policy.p.alow: unknown field; did you mean 'allow'? "
    "Allowed: allow, deny, identities",
    "policy:\n  p:\n    paths: []": "config.yml:11: policy.p.paths: this is the old name of 'policy.p.allow': use that",
    "root: x": "config.yml:9: root: this is the old name of 'admin.identity': use that",
    "proxy: {}": "config.yml:9: proxy: this is the old name of 'tls.proxy': use that",
    "keys:\n  fs:\n    path: x": "config.yml:9: keys: this is the old name of the key-store section: "
    "call it 'keystore'",
    "address: localhost": "config.yml:9: address: 'localhost' has no port; expected host:port, as in 0.0.0.0:7373",
    "address: a:70000": "config.yml:9: address: 'a:70000' has no valid port; expected host:port with a port from 0 to "
    "65535",
    "address: a b:1": "config.yml:9: address: 'a b:1' has no valid host; expected host:port, an IPv6 address in "
    "brackets",
    "address: [a]": "config.yml:9: address: must be a plain value",
    "runtime: fast": "config.yml:9: runtime: 'fast' is not a runtime; allowed: auto, hypercorn, native",
    "version: v2": "config.yml:9: version: 'v2' is not known; allowed: v1",
    "api:\n  /v1/nope: {}": "config.yml:10: api./v1/nope: no such API; did you mean '/v1/api'?; `kes status --api` "
    "lists them",
    "api:\n  /v1/key/create/:\n    skip_auth: on": "config.yml:11: api./v1/key/create/.skip_auth: anybody could call "
    "this API; allowed only for /v1/ready, /v1/status, /v1/metrics, /v1/api",
    "api:\n  /v1/status:\n    skip_auth: 1": "config.yml:11: api./v1/status.skip_auth: '1' is not a truth value; "
    "allowed: on, off, true, false, yes, no",
    "api:\n  /v1/status:\n    timeout: 5": f"config.yml:11: api./v1/status.timeout: '5' is not a duration: a number "
    f"needs a unit, {AS_IN}",
    "api: [x]": "config.yml:9: api: must be a mapping",
    "policy: []": "config.yml:9: policy: must be a mapping",
    "policy:\n  p: x": "config.yml:10: policy.p: must be a mapping with the fields allow, deny, identities",
    "policy:\n  p:\n    allow: x": "config.yml:11: policy.p.allow: must be a list",
    "policy:\n  p:\n    allow: [[x]]": "config.yml:11: policy.p.allow[0]: must be a plain value",
    "policy:\n  a.b: {}": f"config.yml:10: policy.a.b: is not a valid name for a policy: {NAME_RULE}",
    "policy:\n  p:\n    identities: [a.b]": "config.yml:11: policy.p.identities[0]: 'a.b' is not an identity; "
    "`kes identity of FILE` prints that of a certificate",
    "policy:\n  p:\n    identities:\n    - ": "config.yml:12: policy.p.identities[0]: '' is not an identity; "
    "`kes identity of FILE` prints that of a certificate",
    f"policy:\n  p:\n    identities: [{ADMIN}]": "config.yml:11: policy.p.identities[0]: this identity is already the "
    "admin; an identity can be only one thing, once",
    f"policy:\n  p:\n    identities: [{IDENTITY}]\n  q:\n    identities: [{IDENTITY}]": "config.yml:13: "
    "policy.q.identities[0]: this identity is already in policy 'p'; an identity can be only one thing, once",
    f"policy:\n  p:\n    identities:\n    - {IDENTITY}\n    - {IDENTITY}": "config.yml:13: policy.p.identities[1]: "
    "this identity is already in policy 'p'; an identity can be only one thing, once",
    "cache:\n  expiry:\n    any: 10": f"config.yml:11: cache.expiry.any: '10' is not a duration: a number needs a "
    f"unit, {AS_IN}",
    "cache:\n  expiry:\n    any: 1d": f"config.yml:11: cache.expiry.any: '1d' is not a duration, {AS_IN}; {UNITS}",
    "cache:\n  expiry:\n    unused: -1s": "config.yml:11: cache.expiry.unused: '-1s' is negative; a duration must be "
    "zero or more",
    "cache:\n  expiry:\n    offline: 9999999999h": "config.yml:11: cache.expiry.offline: '9999999999h' is too long; "
    "the longest duration is 2540400h",
    "cache:\n  expiry:\n    ever: 1s": "config.yml:11: cache.expiry.ever: unknown field. Allowed: any, unused, offline",
    "cache: {any: 1s}": "config.yml:9: cache.any: unknown field. Allowed: expiry",
    "log:\n  error: loud": f"config.yml:10: log.error: 'loud' is not a log level; {LEVELS}",
    "log:\n  audit: info+x": f"config.yml:10: log.audit: 'info+x' is not a log level; {LEVELS}",
    "log: on": "config.yml:9: log: must be a mapping with the fields error, audit",
    "keys:\n- my-key": "config.yml:10: keys[0]: must be a mapping with the fields name",
    "keys:\n- name: a.b": f"config.yml:10: keys[0].name: 'a.b' is not a valid name: {NAME_RULE}",
    "keys:\n- {}": "config.yml:10: keys[0].name: required, but missing",
    "keys:\n- name: a\n- name: a": "config.yml:11: keys[1].name: 'a' is listed twice; keep one",
    "address: 127.0.0.1:7374\nprobe: {}": "config.yml:10: probe.address: '127.0.0.1:7374' and 'address', "
    "'127.0.0.1:7374', are one; give the probes another port",
    "probe:\n  address: Localhost:07373\naddress: localhost:7373": "config.yml:10: probe.address: 'Localhost:07373' "
    "and 'address', 'localhost:7373', are one; give the probes another port",
    "probe:\n  address: 127.0.0.1:7373": "config.yml:10: probe.address: '127.0.0.1:7373' and 'address', "
    "'0.0.0.0:7373', are one; give the probes another port",
    "address: :7373\nprobe:\n  address: '[::1]:7373'": "config.yml:11: probe.address: '[::1]:7373' and 'address', "
    "':7373', are one; give the probes another port",
    "audit: {file: {path: ~/audit}}": "config.yml:9: audit.file.path: '~/' is not replaced here, as a shell would do "
    "it: write the value itself",
    "tls: {}": "config.yml:9: tls: given twice, first in line 3; keep one",
    "log:\n  error: ${KES_MISSING}": "config.yml:10: log.error: the environment variable 'KES_MISSING' is not set",
    "log:\n  error: ${}": "config.yml:10: log.error: ${} does not name an environment variable",
    "log:\n  error: ${KES_SET}": f"config.yml:10: log.error: the value of ${{KES_SET}} is not a log level; {LEVELS}",
    "---\na: b": "config.yml:9: a second document begins here; the file must hold one",
    "a: [": "config.yml:10: not valid YAML: did not find expected node content",
    "\ta: b": "config.yml:9: not valid YAML: found a tab character that violates indentation",
    "log: \x01": "config.yml:9: not valid YAML: a character that is not allowed",
    "log: *unknown": "config.yml:9: not valid YAML: found undefined alias 'unknown'",
    "? [a, b]\n: c": "config.yml:9: the name of a field must be plain text",
    "a: &a [*a]": "config.yml:9: the alias 'a' stands inside the value that it names",
    "policy_engines:\n  cedar: {}": "config.yml:10: policy_engines.cedar: no installed plugin provides it: install "
    "the package kes-cedar; installed: none",
}


MISSING = {
    "": "config.yml:1: the file is empty; the least it needs: admin.identity, tls.key, tls.cert, keystore",
    "- a": "config.yml:1: must be a mapping of fields; allowed: version, address, workers, runtime, admin, tls, api, "
    "policy, cache, deletion, log, audit, probe, keys, plugins, keystore, policy_engines, "
    "audit_sinks, frontends",
    "tls: {key: k, cert: c}\nkeystore: {memory: }": "config.yml:1: admin: required, but missing",
    "admin: x\ntls: {key: k, cert: c}\nkeystore: {memory: }": "config.yml:1: admin: must be a mapping with the fields "
    "identity",
    "admin: {identity: x}\ntls: {key: k}\nkeystore: {memory: }": "config.yml:2: tls.cert: required, but missing",
    "root: x\ntls: {key: k, cert: c}\nkeystore: {memory: }": "config.yml:1: root: this is the old name of "
    "'admin.identity': use that",
}
