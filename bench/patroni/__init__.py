"""The peer: Patroni with Kubernetes as its store, on the same nodes, under the same clients and faults."""
