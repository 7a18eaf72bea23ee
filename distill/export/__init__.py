"""A finished student in the formats of other runtimes."""
