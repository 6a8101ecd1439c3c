"""One run in one file: spec, code, environment, data hash and curve; written by `export bundle`, rerun by `reproduce`."""
