"""Training: options, folds, the loop, and what 2D, 3D and the released recipe train."""
