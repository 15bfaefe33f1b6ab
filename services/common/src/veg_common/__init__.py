"""What every service shares: objects and their store, gRPC bootstrap, logging, process life. No domain logic."""
