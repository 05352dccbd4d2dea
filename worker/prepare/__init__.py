"""Engines before they serve: what a model is, who can load it, and how a quantized or built one is made.

Nothing here is imported by a serving worker. Heavy packages are looked for when a command needs them.
"""
