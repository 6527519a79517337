"""Who reaches what in the Kubernetes manifests, and that every part of their NetworkPolicies matters to that."""

import copy

import pytest

from manifests import CLUSTERS, MIXES
from network_policies import NAME_OF_NAMESPACE, Endpoint, pod, verdict

# Source, destination, ports, what becomes of it. Each side denies for itself what is denied.
TABLE = [
    ("worker", "coordinator", "7444", "allow"),
    ("worker", "coordinator", "7443 7445 22 40000", "deny"),
    ("worker", "twin", "7443 7444", "deny"),
    ("worker", "copy", "7444 40000", "deny"),
    ("client", "coordinator", "7443", "allow"),
    ("client", "coordinator", "7444 7445", "deny"),
    ("client", "worker", "7446 7447 40000", "deny"),
    ("prometheus", "coordinator", "7445", "allow"),
    ("prometheus", "coordinator", "7443 7444", "deny"),
    ("prometheus", "worker", "7446", "allow"),
    ("prometheus", "worker", "7445 7447 40000", "deny"),
    ("worker", "same pool", "40000 42000 44999", "allow"),
    ("worker", "same pool", "39999 45000 7446 7447 40000/UDP", "deny"),
    ("worker", "other pool", "40000 44999 7446 7447", "deny"),
    ("other pool", "worker", "40000 44999 7446 7447", "deny"),
    ("coordinator", "worker", "7446 7447 40000 44999", "deny"),
    # Labels count in their own namespace only.
    ("stranger", "coordinator", "7443 7444 7445 40000", "deny"),
    ("stranger", "worker", "7446 7447 40000 44999", "deny"),
    ("copy", "coordinator", "7443 7444 7445", "deny"),
    ("copy", "worker", "7446 7447 40000", "deny"),
    # What nothing else selects is still denied.
    ("client", "copy", "7443 7444 7445", "deny"),
    ("prometheus", "copy", "7445", "deny"),
    ("machine", "coordinator", "7443 7444 7445", "deny"),
    ("machine", "worker", "7446 7447 40000", "deny"),
    *[row for pods in ("worker", "coordinator", "copy") for row in [
        (pods, "dns", "53/UDP 53/TCP", "allow"),
        (pods, "dns", "9153 54/UDP", "deny"),
        (pods, "node's dns", "53/UDP 53/TCP", "allow"),
        (pods, "node's dns", "80 8080", "deny"),
        (pods, "no dns", "53/UDP 53/TCP", "deny"),
        (pods, "metadata", "80 443", "deny"),
        (pods, "machine", "53/UDP 53/TCP 80 443 7444", "deny"),
        (pods, "client", "443 7443", "deny"),
    ]],
]


def namespace(name, **labels):
    return {NAME_OF_NAMESPACE: name, **labels}


def endpoints(cluster, worker):
    """The names of the table: a worker's pod, and what there is around it."""
    [own] = cluster.of_kind("Namespace").values()
    here = {**own["metadata"]["labels"], NAME_OF_NAMESPACE: own["metadata"]["name"]}
    template, coordinator = worker["spec"]["template"], cluster.coordinator["spec"]["template"]
    other = {**template["metadata"]["labels"], "anneal.dev/pool": "other-pool"}
    dns = {"k8s-app": "kube-dns"}
    elsewhere = namespace("default")
    return {
        "worker": [pod("a worker", "10.0.0.1", here, template)],
        "same pool": [pod("another of its pool", "10.0.0.2", here, template)],
        "other pool": [pod("a worker of another pool", "10.0.0.3", here, template, other),
                       *(pod(w["metadata"]["name"], "10.0.0.4", here, w["spec"]["template"]) for w in cluster.workers if w is not worker)],
        "coordinator": [pod("the coordinator", "10.0.0.5", here, coordinator)],
        # As `kubectl debug --copy-to` makes it: without labels.
        "copy": [pod("a copy without labels", "10.0.0.6", here, coordinator, {})],
        "twin": [pod("a coordinator of another namespace", "10.0.0.7", elsewhere, coordinator)],
        "client": [pod("a client", "10.0.0.8", namespace("team", **{"anneal.dev/clients": "allowed"}))],
        "prometheus": [pod("Prometheus", "10.0.0.9", namespace("monitoring"))],
        "stranger": [pod("a stranger", "10.0.0.10", elsewhere),
                     pod("a stranger with a worker's labels", "10.0.0.11", elsewhere, template)],
        "dns": [pod("CoreDNS", "10.0.0.12", namespace("kube-system"), labels=dns)],
        "no dns": [pod("a pod of kube-system", "10.0.0.13", namespace("kube-system")),
                   pod("a stranger with labels of DNS", "10.0.0.14", elsewhere, labels=dns)],
        "node's dns": [Endpoint("NodeLocal DNSCache", "169.254.20.10")],
        "metadata": [Endpoint("a cloud's metadata service", "169.254.169.254")],
        "machine": [Endpoint("a machine", "192.0.2.1"), Endpoint("a machine of the node's network", "10.1.0.1")],
    }


def faults(cluster, policies):
    """The rows of the table that do not come out as they say."""
    found = []
    for worker in cluster.workers:
        known = endpoints(cluster, worker)
        for sources, destinations, ports, expected in TABLE:
            for source in known[sources]:
                for destination in known[destinations]:
                    for port in ports.split():
                        number, _, protocol = port.partition("/")
                        got = verdict(policies, source, destination, int(number), protocol or "TCP")
                        if got != expected:
                            found.append((sources, destinations, port, got))
    return found


@pytest.fixture(params=[*CLUSTERS, *MIXES])
def cluster(request, rendered):
    return rendered[request.param]


def policies_of(cluster):
    return list(cluster.of_kind("NetworkPolicy").values())


def test_everybody_reaches_what_the_table_says_and_nothing_else(cluster):
    assert faults(cluster, policies_of(cluster)) == []


def test_no_policy_is_there_for_nothing(cluster):
    policies = policies_of(cluster)
    broken = {p["metadata"]["name"]: faults(cluster, [q for q in policies if q is not p]) for p in policies}
    assert all(broken.values()), broken
    # Each side of the fleet's port needs its own.
    for name in ("fleet-coordinator", "fleet-workers"):
        assert ("worker", "coordinator", "7444", "half") in broken[name]
    assert ("client", "copy", "7443", "allow") in broken["default-deny"]


def changed(policies):
    """(what, the policies with that change): a peer or port less, a selector that selects all, one type of policy less."""
    for index, policy in enumerate(policies):
        name, spec = policy["metadata"]["name"], policy["spec"]

        def without(*path):
            made = copy.deepcopy(policies)
            inner = made[index]["spec"]
            for key in path[:-1]:
                inner = inner[key]
            del inner[path[-1]]
            return f"{name} without {path}", made

        for position in range(len(spec["policyTypes"])):
            if len(spec["policyTypes"]) > 1:
                yield without("policyTypes", position)
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for number, rule in enumerate(spec.get(direction, [])):
                yield without(direction, number)
                for key in (peers, "ports"):
                    for position in range(len(rule[key])):
                        yield without(direction, number, key, position)
                for position, peer in enumerate(rule[peers]):
                    for selector in [s for s in ("podSelector", "namespaceSelector") if s in peer]:
                        made = copy.deepcopy(policies)
                        made[index]["spec"][direction][number][peers][position][selector] = {}
                        yield f"{name}, {direction} {number}: any {selector}", made
                for position, port in enumerate(rule["ports"]):
                    if "endPort" in port:
                        yield without(direction, number, "ports", position, "endPort")
        if spec["podSelector"]:
            made = copy.deepcopy(policies)
            made[index]["spec"]["podSelector"] = {}
            yield f"{name} for all pods", made


def test_no_part_of_a_policy_is_there_for_nothing(cluster):
    unseen = [what for what, policies in changed(policies_of(cluster)) if not faults(cluster, policies)]
    # `names` selects all pods for egress as well, so that one of the two is enough; it is also the one that overlays patch.
    assert unseen == ["default-deny without ('policyTypes', 1)"]


def test_without_names_everything_is_still_denied(cluster):
    policies = [p for p in policies_of(cluster) if p["metadata"]["name"] != "names"]
    assert {(destination, got) for _, destination, _, got in faults(cluster, policies)} == {("dns", "deny"), ("node's dns", "deny")}


def policy_of(**spec):
    return {"metadata": {"name": "any", "namespace": "here"}, "spec": {"podSelector": {"matchLabels": {"app": "a"}}, **spec}}


A = Endpoint("a", "10.0.0.1", namespace("here"), {"app": "a"}, {("web", "TCP"): 80})
B = Endpoint("b", "10.0.0.2", namespace("here"), {"app": "b"}, {("web", "TCP"): 8080})
FAR = Endpoint("far", "10.0.0.3", namespace("there", team="x"), {"app": "b"}, {("web", "TCP"): 81})
OUTSIDE = Endpoint("outside", "192.0.2.7")
PODS_B = {"podSelector": {"matchLabels": {"app": "b"}}}
BLOCK = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/29"]}}


@pytest.mark.parametrize("spec, source, destination, port, expected", [
    # No rules are nothing; without policyTypes a policy is about ingress, and about egress if it has such rules.
    ({}, OUTSIDE, A, 80, "deny"),
    ({}, A, OUTSIDE, 80, "allow"),
    ({"egress": [{"to": [PODS_B]}]}, A, OUTSIDE, 80, "deny"),
    ({"egress": [{"to": [PODS_B]}]}, OUTSIDE, A, 80, "deny"),
    ({"policyTypes": ["Egress"]}, OUTSIDE, A, 80, "allow"),
    # An empty rule is everything.
    ({"ingress": [{}]}, OUTSIDE, A, 80, "allow"),
    ({"ingress": [{"from": [], "ports": []}]}, OUTSIDE, A, 80, "allow"),
    # Pods of the own namespace, of others, of both.
    ({"ingress": [{"from": [PODS_B]}]}, FAR, A, 80, "deny"),
    ({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]}]}, FAR, A, 80, "allow"),
    ({"ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "c"}}}]}]}, FAR, A, 80, "deny"),
    ({"ingress": [{"from": [{"namespaceSelector": {}}, BLOCK]}]}, OUTSIDE, A, 80, "deny"),
    # Addresses, with holes.
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}, OUTSIDE, A, 80, "allow"),
    ({"ingress": [{"from": [BLOCK]}]}, OUTSIDE, A, 80, "deny"),
    ({"ingress": [{"from": [BLOCK]}]}, Endpoint("outside", "192.0.2.8"), A, 80, "allow"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}, FAR, A, 80, "half"),
    # Ports: a range, a protocol, a name, which is the destination's.
    ({"ingress": [{"ports": [{"port": 70, "endPort": 80}]}]}, OUTSIDE, A, 80, "allow"),
    ({"ingress": [{"ports": [{"port": 70, "endPort": 80}]}]}, OUTSIDE, A, 81, "deny"),
    ({"ingress": [{"ports": [{"port": 80, "protocol": "UDP"}]}]}, OUTSIDE, A, 80, "deny"),
    ({"ingress": [{"ports": [{"protocol": "TCP"}]}]}, OUTSIDE, A, 80, "allow"),
    ({"ingress": [{"ports": [{"port": "web"}]}]}, OUTSIDE, A, 80, "allow"),
    ({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "web"}]}]}, A, FAR, 81, "allow"),
    ({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "web"}]}]}, A, FAR, 80, "deny"),
    ({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "web"}]}]}, A, OUTSIDE, 80, "deny"),
    # B has no policy, so that A's egress is one side that denies.
    ({"policyTypes": ["Egress"]}, A, B, 8080, "half"),
])
def test_the_rules_are_those_of_kubernetes(spec, source, destination, port, expected):
    assert verdict([policy_of(**spec)], source, destination, port) == expected
