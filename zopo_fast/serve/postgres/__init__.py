"""PostgreSQL as the store of a fleet of servers."""
