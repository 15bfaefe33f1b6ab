"""The sandbox's network: namespaces, links, nodes, pods' plumbing, the outside host, traffic probes.

`from veg_sandbox.net.lab import Lab, LabSpec` is the way in; its module docstring is the API guide.
"""
