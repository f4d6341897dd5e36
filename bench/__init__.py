"""One question a file; `zopo-fast bench` (runner.py) runs them. Installed as zopo_fast.bench."""
