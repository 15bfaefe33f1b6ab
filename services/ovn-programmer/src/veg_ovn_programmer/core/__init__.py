"""What is wanted, what is there, and the difference: pure values and functions."""
