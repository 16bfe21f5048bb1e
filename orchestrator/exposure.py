"""Who else can reach the Ray cluster that a deployment runs on, as far as this process can tell."""

from __future__ import annotations

import ipaddress

from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]


def exposure_warnings(address: str) -> list[str]:
    """What is wrong with who may speak to a cluster that this process is connected to.

    Args:
        address: host:port of its GCS.

    Returns:
        Texts for a person, with the remedy; empty where nothing is known to be wrong.
    """
    return warnings_of(address, with_token=get_authentication_mode() == AuthenticationMode.TOKEN)


def warnings_of(address: str, *, with_token: bool) -> list[str]:
    """The same for a connection that was made with a token, or without one."""
    if with_token or is_loopback(address):
        return []
    told = (
        f"Ray's authentication is off, and {address} is not on loopback: whoever reaches that port can run code as this "
        "user. Start the cluster with RAY_AUTH_MODE=token, or let nobody reach its ports (docs/security.md)")
    return [told]


def is_loopback(address: str) -> bool:
    """Whether an address (host:port) is reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
