"""Modules that stand for a layer after a change of it. All of them need torch."""
