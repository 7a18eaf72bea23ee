"""Aligned crops on disk, and everything that turns pictures into them."""
