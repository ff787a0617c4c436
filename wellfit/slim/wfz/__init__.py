"""The file of slim models, `.wfz`: numpy only."""
