"""Neighbours of the packet loop: sockets, scheduler, the control process."""
