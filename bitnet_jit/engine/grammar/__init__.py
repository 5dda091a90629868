"""Texts that hold to a JSON schema: which schemas are taken, and the masks that a grammar makes."""
