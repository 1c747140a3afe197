"""A runtime for kes-core in native code: TLS by rustls, HTTP/2 by h2, HTTP/1.1 by httparse."""
