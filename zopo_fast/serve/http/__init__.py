"""HTTP layer of the server: routing, bodies, responses, problems."""
