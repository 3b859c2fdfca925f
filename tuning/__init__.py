"""From recorded sessions to a filter setting with a guarantee: traces, replay, search, certification."""
