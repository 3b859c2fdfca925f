"""The Ray backend of the server: clusters, actors, placement, and the dispatch of shards."""
