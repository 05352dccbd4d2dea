"""The HTTP faces in a process of their own, in front of the gRPC API of routers."""
