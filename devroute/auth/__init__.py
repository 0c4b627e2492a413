"""Who a client is: an Identity, from a static token, an issuer's token (OIDC) or a client certificate.

Start at authenticator.py, which tries the three in order. Beside it: sessions of the team's page, subjects
that are blocked, TLS contexts. What an identity may do is decided in policy/, which this does not import.
"""
