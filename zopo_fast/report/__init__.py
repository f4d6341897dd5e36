"""Report of runs: what a study says, its charts, and the page that shows them."""
