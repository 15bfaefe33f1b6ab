"""The BFD speaker of a gateway pod: RFC 5880 asynchronous mode over RFC 5881 single-hop encapsulation."""
