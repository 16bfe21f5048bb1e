"""The direct data plane: how processes of a deployment speak without Ray in between, once Ray has introduced them.

Ray places, names, supervises and restarts the actors. An actor is asked through Ray where it listens (`endpoint`), and from
then on the bytes of a call go over a socket: a Unix one on the same host, TCP between hosts. A call is what it is over Ray:
bytes in, bytes out, and whatever goes wrong with it means an unknown outcome and nothing else.
"""
