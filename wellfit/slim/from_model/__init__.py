"""`wellfit slim --model`: a model from the user's own function, its weights from a file, no script and no training."""
