"""What a training step minimises: loss terms, discriminators, and frozen networks."""
