"""Train networks on triplets (source, target, gt)."""
