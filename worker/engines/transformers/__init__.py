"""Hugging Face transformers as an engine: right before fast, on one process or over MPI ranks."""
