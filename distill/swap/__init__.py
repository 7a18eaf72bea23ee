"""Swap faces in photographs and videos with a trained student."""
