"""One module a neighbour: netlink, NAT tables, sysctls, files."""
