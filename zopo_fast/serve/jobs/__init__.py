"""Jobs of the server: service, runner, events, routes."""
