"""`kes doctor`: finds what is wrong before a client does, and explains refusals. Internal.

Everything here returns findings (`kes_core.findings`) and prints nothing. The modules:

    configuration what is wrong with the text of the configuration
    address       the addresses to listen on
    certificate   the server's certificate, the CAs for clients, and the clock
    runtime       what serves TLS and HTTP
    settings      policies, TLS proxies, open APIs, and the cache
    store         the key store and the policy engines, as far as their plugins can tell
    keys          the keys in the key store: what is left of deleted ones, and which are old
    examination   all of the above, in the order in which it is shown
    decision      what becomes of one client's request, check by check
    clients       the policies that well-known clients need
"""
