"""The agent: the only part of lbctl that keeps running."""
