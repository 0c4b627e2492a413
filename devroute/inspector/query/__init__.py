"""The query language of the inspector's page and API: `status:5xx method:post -is:noise "some text"`. Pure.

- syntax: the terms of a query, and how a value is written.
- fields: the fields, what their values mean, and which values there are.
- query: parses a query and says which captures match it.
- edit: completion, and adding and removing a term.

Whatever is typed, parsing takes linear time, and so does a match in the size of a capture.
"""
