"""Audits: what may be wrong with a comparison, how much more it needs, and which runs each number rests on."""
