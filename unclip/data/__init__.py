"""Images, captions and embeddings: sources, shards, filters, tables and indices."""
