"""`devroute login`: a token of the team's OIDC issuer by the device authorization grant (RFC 8628).

`device_flow` speaks the protocol, `issuer_client` sends its requests, `stored_login` keeps what was granted
and renews it. The proxy says at /api/login which issuer and client to use.
"""
