"""A real Kubernetes of several nodes on one Linux machine, without a container engine.

Every node is a network namespace with its own containerd, kubelet and kube-proxy; the control plane and the cluster's
DNS server run in the machine's own namespace, on addresses of the cluster's bridge. Several clusters run side by side,
told apart by their names. `python -m dev.kubebox --help` says what can be done; `dev/README.md` how it is built.
"""
