"""Readers and writers: one file a format, one source layout a file."""
