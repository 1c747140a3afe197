#!/bin/sh
# Stores an object that the object store encrypts, reads it back, and shows the key.
set -eu

mc mb --ignore-existing store/trial
mc encrypt set sse-kms minio-trial store/trial
echo "An object that only the key server can open." | mc pipe store/trial/object
mc cat store/trial/object
mc stat store/trial/object
mc admin kms key status store minio-trial
