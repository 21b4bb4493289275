"""What training a detector and training a classifier share: the loop, its state, its processes, its logs."""
