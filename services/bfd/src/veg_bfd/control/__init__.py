"""The control process: gRPC, metrics, files and the light socket of `bfdd-control`. It never touches a packet."""
