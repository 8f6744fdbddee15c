"""The command line, with and without Kubernetes."""
