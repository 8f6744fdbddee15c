"""The Kubernetes objects that a spec asks for, as plain dictionaries. Pure."""
