"""The custom resources as pydantic models, one file a kind, and the generator of their CRDs."""
