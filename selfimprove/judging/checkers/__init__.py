"""Checkers: programs that say whether a text is right."""
