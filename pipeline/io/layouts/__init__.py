"""Layouts of raw data sets: a file each, named like the layout; its `list_dataset(folder)` gives a `Listing`.

A file here and a preset are all that a layout needs (docs/how-to/add-a-layout.md).
"""
