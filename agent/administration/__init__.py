"""Administration: the queues shown to operators, and their orders taken, over gRPC."""
