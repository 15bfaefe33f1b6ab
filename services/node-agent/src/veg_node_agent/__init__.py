"""The agent inside a gateway pod: makes routes, rules, sysctls and NAT match its configuration."""
