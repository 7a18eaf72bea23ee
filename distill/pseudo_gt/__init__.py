"""Frozen teachers swap pairs of training people; the swaps are written as tar shards."""
