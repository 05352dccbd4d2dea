"""The `sglang` engine: SGLang's engine in this process, its scheduler and its ranks in processes of their own."""
