"""Makes a trained model small and fast, and proves it."""
