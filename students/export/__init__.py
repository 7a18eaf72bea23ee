"""Exports of a student to the runtimes of phones and browsers, each file compared with PyTorch.

models.py defines what is exported, targets.py lists the runtimes, one module each, and equality.py compares.
`python -m distill.export STUDENT --to TARGETS` is the command.
"""
