"""Certificates: that two engines train alike, that a killed run resumes to the same bits; proved by training, and kept."""
