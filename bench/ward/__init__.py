"""The parts of the clinic: who is examined, what they are made ill with, and what came of it."""
