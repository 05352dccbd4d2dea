"""The embedded engine: llama.cpp in this process, through xllamacpp. GGUF files, no torch."""
