"""Everything that reads or writes training data; datasets/ (no package) holds the commands and cards."""
