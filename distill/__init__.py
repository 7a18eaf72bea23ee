"""The training framework: data, pseudo ground truth, losses, training loop, evaluation, export, reports."""
