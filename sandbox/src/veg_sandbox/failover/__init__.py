"""`veg-sandbox failover`: how long traffic stops when a replica of a gateway fails, measured with many flows."""
