"""Keys: their cryptography, their stored form, the cache in front of the key store, migration. Internal."""
