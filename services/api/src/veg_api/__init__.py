"""api: custom resources in, workloads, addresses, OVN intents and status out."""
