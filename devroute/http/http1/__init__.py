"""HTTP/1.1 heads, parsed strictly, and bodies: where they end (RFC 9112). Pure.

Start at request.py, where a request's framing is decided; response.py is its counterpart. validation: what
llhttp checks; fields: the lines; shapes: heads that differ in ids alone are read once; body: chunks.
"""
