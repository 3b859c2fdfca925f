"""Everything of the server that knows Ray: clusters, actors, placement, and the dispatch of shards."""
