"""What NetworkPolicies let through, by the rules of Kubernetes' API. What comes from a pod's own node, such as probes, they never hold up."""

import ipaddress
from dataclasses import dataclass, field

from manifests import container_of, matches

NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"  # a label that every namespace has


@dataclass(frozen=True)
class Endpoint:
    """A pod, or an address that is no pod."""
    name: str
    address: str
    namespace: dict = None  # its labels; None: no pod
    labels: dict = field(default_factory=dict)
    ports: dict = field(default_factory=dict)  # (name, protocol) -> number


def pod(name, address, namespace, template=None, labels=None):
    """A pod of a rendered template, or of none; with the template's labels unless others are given."""
    if labels is None:
        labels = template["metadata"]["labels"] if template else {}
    ports = container_of(template)["ports"] if template else []
    return Endpoint(name, address, namespace, labels, {(p["name"], p.get("protocol", "TCP")): p["containerPort"] for p in ports})


def is_subject(policy, endpoint):
    inside = endpoint.namespace is not None and endpoint.namespace[NAME_OF_NAMESPACE] == policy["metadata"]["namespace"]
    return inside and matches(policy["spec"]["podSelector"], endpoint.labels)


def types_of(policy):
    spec = policy["spec"]
    return spec.get("policyTypes") or ["Ingress"] + (["Egress"] if spec.get("egress") else [])


def is_peer(peer, namespace, endpoint, blocks_hold_pods):
    if "ipBlock" in peer:
        assert set(peer) == {"ipBlock"}, peer
        if endpoint.namespace is not None and not blocks_hold_pods:
            return False
        address, block = ipaddress.ip_address(endpoint.address), peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(hole) for hole in block.get("except", []))
    assert peer and set(peer) <= {"podSelector", "namespaceSelector"}, peer
    if endpoint.namespace is None:
        return False
    # Without a namespaceSelector it is the policy's own namespace.
    where = peer.get("namespaceSelector", {"matchLabels": {NAME_OF_NAMESPACE: namespace}})
    return matches(where, endpoint.namespace) and matches(peer.get("podSelector", {}), endpoint.labels)


def is_open(entry, destination, port, protocol):
    if entry.get("protocol", "TCP") != protocol:
        return False
    first = entry.get("port")
    if isinstance(first, str):  # a name is the destination's, in both directions
        return destination.ports.get((first, protocol)) == port
    return first is None or first <= port <= entry.get("endPort", first)


def side_allows(policies, direction, source, destination, port, protocol, blocks_hold_pods):
    """Whether one side lets a connection through: the source's egress or the destination's ingress."""
    subject, other, peers = (source, destination, "to") if direction == "Egress" else (destination, source, "from")
    selecting = [p for p in policies if direction in types_of(p) and is_subject(p, subject)]
    # No peers are all peers, no ports are all ports; no rules are nothing, and no policy is everything.
    return not selecting or any(
        (not rule.get(peers) or any(is_peer(p, policy["metadata"]["namespace"], other, blocks_hold_pods) for p in rule[peers]))
        and (not rule.get("ports") or any(is_open(entry, destination, port, protocol) for entry in rule["ports"]))
        for policy in selecting for rule in policy["spec"].get(direction.lower()) or [])


def verdict(policies, source, destination, port, protocol="TCP"):
    """"allow", "deny", or "half" where one side alone would deny: of the sides that have a policy's namespace. Network plugins differ in
    whether an ipBlock holds addresses of pods as well, and "half" is also what depends on that."""
    namespaces = {p["metadata"]["namespace"] for p in policies}
    sides = [direction for direction, end in (("Egress", source), ("Ingress", destination))
             if end.namespace is not None and end.namespace[NAME_OF_NAMESPACE] in namespaces]
    assert sides, f"no policy is about {source.name} or {destination.name}"
    found = {side_allows(policies, direction, source, destination, port, protocol, blocks_hold_pods)
             for direction in sides for blocks_hold_pods in (False, True)}
    return "half" if len(found) == 2 else "allow" if found == {True} else "deny"
