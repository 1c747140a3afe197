"""The network side of the server: sockets, TLS, HTTP/1.1 and HTTP/2. Internal."""
