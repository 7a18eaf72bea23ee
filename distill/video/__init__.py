"""Videos: reading, swapping every frame, and writing what the ending of the name says."""
