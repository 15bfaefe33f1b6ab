"""The process that plays the parts of Kubernetes and the CNI: Deployment controller, scheduler, kubelet.

`core` decides (pure), the other modules watch the store, start processes and write what was decided.
"""
