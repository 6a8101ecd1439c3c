"""The few widgets of the app: rows of spans, a virtual table, a key line; all draw line by line."""
