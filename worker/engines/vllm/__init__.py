"""The `vllm` engine: vLLM's asynchronous engine in this process, its core in a process of its own."""
