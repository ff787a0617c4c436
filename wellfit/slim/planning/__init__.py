"""What can be made of a trained model without training: a plan, and carrying it out."""
