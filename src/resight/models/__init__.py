"""Models: parts, the two dialects, and build(config)."""
