"""gRPC messages with their schema: protobuf as JSON and back, for the inspector's page. Never on the path of
requests: a message is decoded when it is looked at.

- frames: the messages in a recorded body, and bodies made of messages.
- wire: protobuf without a schema.
- schema, printer, parser, error_details: protobuf with one; need the library `protobuf` (extra `grpc`).
- descriptor_files, reflection: where schemas come from. catalogue: which one counts for a call.
- decoder: what the page shows of a capture.
"""
