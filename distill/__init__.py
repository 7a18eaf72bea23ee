"""What is thrown away after training: data, pseudo ground truth, losses, the loop, reports."""
