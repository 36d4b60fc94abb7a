"""What is found out about a job before it runs: each finding a small function with its reason.

    finding.py      what a finding is
    subject.py      the job with its tables resolved, and the statements that it will run
    tables.py, key.py, writing.py, statements.py    what makes a run impossible: refused at enqueue

The preflight (engine/preflight.py) refuses by the first error; `backfill check` shows all.
"""
