"""HTTP without I/O: heads, bodies, HTTP/2's frames, gRPC's statuses, baggage and trace context. Pure, but for
aio/, which this does not import.

Start at message.py: the parsed heads that the other packages pass on. http1/ and http2/ read and write each
version; carriers: the headers beside `X-devroute` that a contract may come by.
"""
