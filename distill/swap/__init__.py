"""A finished student at work on photographs and videos."""
