"""The whole system on one machine: real OVN, chassis, pods and an outside network in network namespaces."""
