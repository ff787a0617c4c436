"""Overrides: changes of a training run that leave its script alone. One file each, in the folder of what it changes."""
