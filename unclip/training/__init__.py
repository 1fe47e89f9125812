"""One training loop for every stage: state, averaging, checkpoints, learning-rate schedule."""
