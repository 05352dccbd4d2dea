"""Guides followed id by id, whatever the engine: which ids a form allows next, and whether an id is one of them."""
