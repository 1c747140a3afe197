"""The rules of access: the route of a request, its sender, and whether the sender may make it. Internal.

The server's dispatcher and `kes doctor --path` call these functions in this order, so that they never differ:

    routing   find_route       the route of a path and method, or a redirect, 404 or 405
    sender    identify         the client that sent the request: once a connection; behind a TLS proxy once a request
    decide    decide           whether the sender may: open routes, certificate, admin, policy engines
    routing   check_argument   whether the name or pattern is valid

    rules, authorities         what the configuration says about access
    errors                     refusals, and their answers
"""
