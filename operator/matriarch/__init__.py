"""Matriarch: a Kubernetes operator for databases."""
