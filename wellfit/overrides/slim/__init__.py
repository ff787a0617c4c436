"""Overrides that make a model small while its own script trains it."""
