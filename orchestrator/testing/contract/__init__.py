"""The contract of a service: what every participant owes the protocol, and a check of it."""
