"""Studies of the server: service, journal, files, routes."""
