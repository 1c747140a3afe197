"""Real servers, certificates, terminals and proxies for tests."""
