"""What can be changed of a module tree to make it small or fast: one file a change. Reading them needs no torch."""

from wellfit.slim.changes.change import Change, Unfit, as_json, from_json, known_changes, redo_all

__all__ = ["Change", "Unfit", "as_json", "from_json", "known_changes", "redo_all"]
