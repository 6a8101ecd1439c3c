"""results.duckdb, an index of the run folders: connect, migrate, ingest, queries (the only SQL in Python)."""
