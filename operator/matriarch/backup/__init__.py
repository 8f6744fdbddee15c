"""The backup engine: format, catalogue, sources, stores, pipeline, restore."""
