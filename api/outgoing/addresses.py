"""Which IP addresses may be connected to: outside development, those of the public Internet and no others.

The lists are IANA's registries of special-purpose addresses (https://www.iana.org/assignments/iana-ipv4-special-registry,
https://www.iana.org/assignments/iana-ipv6-special-registry), written out: `ipaddress.is_global` differs between the
patch releases of Python (CVE-2024-4032) and counts multicast and tunnels as global.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


# What a developer's own machine and network use. Not link-local: there the clouds keep their credentials.
PRIVATE = _networks(
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
    *("::1/128", "fc00::/7"),
)
# Where clouds serve credentials to whoever asks from inside, at addresses that look private or public.
METADATA = _networks("100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::/32", "fd20:ce::/32")
NOT_PUBLIC = _networks(
    "0.0.0.0/8",  # this network; 0.0.0.0 reaches this machine
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local
    "172.16.0.0/12",
    "192.0.0.0/24",  # protocol assignments
    *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),  # documentation
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "198.18.0.0/15",  # benchmarks
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
    "2001::/23",  # protocol assignments, Teredo among them
    *("2001:db8::/32", "3fff::/20"),  # documentation
    "2002::/16",  # 6to4: any IPv4 address can hide in it
    *("5f00::/16", "100::/64"),  # segment routing, discard
)
GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out so far (RFC 4291, 2.4)
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: how a network without IPv4 writes an IPv4 address


@lru_cache(1024)
def allowed(text: str, *, private: bool) -> bool:
    """Tell whether an address, as the resolver writes it, may be connected to; with `private` also a private one."""
    address = _inner(ip_address(text))
    if any(address in network for network in METADATA):
        return False
    if private and any(address in network for network in PRIVATE):
        return True
    return (address.version == 4 or address in GLOBAL_UNICAST) and not any(address in range_ for range_ in NOT_PUBLIC)


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, where systems connect to that one; otherwise itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
