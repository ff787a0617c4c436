"""`wellfit slim`: make a trained model small and fast, and prove it."""
