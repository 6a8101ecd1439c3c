"""Foreign results to run folders: importers by name, found by entry point; each lists what it could not read, and why."""
