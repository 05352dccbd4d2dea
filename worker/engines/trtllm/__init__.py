"""The `trtllm` engine: TensorRT-LLM's LLM API in this process, its ranks in processes of their own over MPI."""
