"""Measure swappers on fixed pairs of people who are not in the training data."""
