"""A corpus made into shards: `job.prepare(workspace, request)`; streaming, several processes, resumed where it was cut"""
