"""The one neighbour of this service: the OVN Northbound database."""
