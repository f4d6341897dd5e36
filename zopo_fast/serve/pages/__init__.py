"""Server's page: the list of runs, the live report of each, and a form that starts a job.

A run is a study or a job. The page needs the extra `page`; without it `/` says so.
"""
