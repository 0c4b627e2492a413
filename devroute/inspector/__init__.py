"""The inspector of `devroute up`: records requests and responses on the laptop, and shows them on a local
page. Captures stay in the laptop's memory, and on its disk if the user wants that.

- Recording: recorder (on the path of requests), messages (WebSocket and gRPC), capture, store, subscriptions.
- Redaction, before anything is stored: redaction, masks, json_path.
- The page and its API: server, access, inspection, api/, feed, views, page/ (with a README).
- Finding and describing captures: query/, outcome.
- From one `devroute up` to the next: state, history.
- Other formats: har_writer, har_reader, curl.
- gRPC messages with their schema: protobuf/. It also redacts them, when a capture is about to be put out.
- Replay and comparison: replay, replay_request, regression, compare, json_diff.
"""
