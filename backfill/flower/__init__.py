"""Flower with pages of ours: what runs do, live, and buttons for what a person does to them.

It is stock Flower, pinned to one minor version, with more handlers and templates (app.py). Its own
flags, logins and pages stay as they are. The package `flower` is an optional extra, so nothing else
of ours imports this package, but for the command that starts it.

1. Flower's event loop never waits for Redis or a database: both are asked in threads (house.py).
2. Nothing is changed unless the request comes from our own page (XSRF token and Origin), the server
   is not in read-only mode, and somebody has logged in or the server is this machine's alone
   (rights.py). What may be done is then what the command line does (`backfill.operate`).
3. No row's value is in a page or in Redis; keys and reasons of the quarantine are read from the
   ledger for the one answer that was asked for, and never kept.
4. All text is text: templates escape, the script sets `textContent`, and the policy that goes with
   each answer forbids inline scripts and anything from elsewhere.
"""
