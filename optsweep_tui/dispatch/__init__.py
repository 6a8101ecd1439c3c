"""Taking runs to machines: the Dispatcher protocol and its back-ends, found by entry point."""
