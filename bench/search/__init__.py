"""Search quality: replays of scored pools."""
