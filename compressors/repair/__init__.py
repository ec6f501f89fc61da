"""What is done after the weights are edited, the same for every method."""
