"""What runs are writing right now: tailers over run folders and an in-memory store of their metrics, no screen."""
