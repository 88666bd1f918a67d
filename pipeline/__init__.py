"""Segtrail's library: volumes and tensors in, volumes and numbers out."""
