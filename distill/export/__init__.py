"""Export a trained student to other runtimes."""
