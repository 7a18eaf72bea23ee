"""What goes on the phone, in the formats of its runtimes, each file proved equal to PyTorch.

models.py says what is exported, targets.py to which runtimes, one module each; proof.py compares. `python -m
distill.export STUDENT --to TARGETS` is the command.
"""
