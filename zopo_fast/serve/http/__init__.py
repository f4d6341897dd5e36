"""HTTP layer of the server: routing, authentication, request parsing, responses, problem details."""
