"""Makes the small demonstration model: a generated world, a tokenizer, a trainer and an evaluation.

Everything the model knows is written in this package; no outside text is used.
"""
