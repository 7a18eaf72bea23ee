"""Aligned crops on disk, and the code that prepares and reads them."""
