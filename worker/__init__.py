import qwenserve.runtime.grpc_core  # noqa: F401  # before anything here imports grpc
