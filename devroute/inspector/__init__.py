"""The inspector: what passed on the agent's path, kept in memory for the engineer.

inspector/capture.py (what is kept of a request; inspector/views.py makes JSON of it), inspector/redaction.py
and inspector/masks.py (what is taken out
before), inspector/store.py (all of them, bounded), inspector/recorder.py and inspector/messages.py (record
on the path), inspector/replay_request.py and inspector/replay.py
(send one again), inspector/regression.py (many, from a file), inspector/compare.py and
inspector/json_diff.py (what differs between two
answers), inspector/curl.py, inspector/har_writer.py and inspector/har_reader.py (other forms),
inspector/server.py (the page). Nothing here leaves the laptop.
"""
