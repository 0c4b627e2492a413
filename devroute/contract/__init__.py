"""What a contract says: for each service named, where its requests go, and under which conditions. Pure.

Start at grammar.py, the only parser of `X-devroute`; target, options and conditions read its parts. verifier,
signer, keys: signed contracts. offer_options, service_spec, destination: what laptops offer and reach. Of
devroute it imports leaf modules only.
"""
