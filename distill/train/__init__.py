"""Students learn from triplets."""
