"""Making a trained network small and fast, and proving it."""
